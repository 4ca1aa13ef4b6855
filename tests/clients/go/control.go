package main

import (
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrock"
	"github.com/aws/aws-sdk-go-v2/service/bedrock/types"
	"github.com/aws/smithy-go"
)

func listModels(c call) (result, error) {
	answer, err := c.control.ListFoundationModels(c.ctx, &bedrock.ListFoundationModelsInput{})
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, model := range answer.ModelSummaries {
		ids = append(ids, aws.ToString(model.ModelId))
	}
	return result{"ids": ids, "raw": answer.ModelSummaries}, nil
}

func getModel(c call) (result, error) {
	answer, err := c.control.GetFoundationModel(c.ctx, &bedrock.GetFoundationModelInput{ModelIdentifier: aws.String(c.Model)})
	if err != nil {
		return nil, err
	}
	return result{"id": aws.ToString(answer.ModelDetails.ModelId), "raw": answer.ModelDetails}, nil
}

func listProfiles(c call) (result, error) {
	pages := bedrock.NewListInferenceProfilesPaginator(c.control, &bedrock.ListInferenceProfilesInput{
		TypeEquals: types.InferenceProfileTypeSystemDefined, MaxResults: aws.Int32(2),
	})
	ids, raw := []string{}, []types.InferenceProfileSummary{}
	for pages.HasMorePages() {
		page, err := pages.NextPage(c.ctx)
		if err != nil {
			return nil, err
		}
		raw = append(raw, page.InferenceProfileSummaries...)
	}
	for _, profile := range raw {
		ids = append(ids, aws.ToString(profile.InferenceProfileId))
	}
	return result{"ids": ids, "raw": raw}, nil
}

func getProfile(c call) (result, error) {
	answer, err := c.control.GetInferenceProfile(c.ctx, &bedrock.GetInferenceProfileInput{
		InferenceProfileIdentifier: aws.String(c.Profile),
	})
	if err != nil {
		return nil, err
	}
	models := []string{}
	for _, model := range answer.Models {
		models = append(models, aws.ToString(model.ModelArn))
	}
	return result{"id": aws.ToString(answer.InferenceProfileId), "models": models}, nil
}

// profileLifecycle makes a profile, finds it, uses it and removes it.
func profileLifecycle(c call) (result, error) {
	made, err := c.control.CreateInferenceProfile(c.ctx, &bedrock.CreateInferenceProfileInput{
		InferenceProfileName: aws.String(c.Name),
		Description:          aws.String("made by a client test"),
		ModelSource:          &types.InferenceProfileModelSourceMemberCopyFrom{Value: c.Source},
		Tags:                 []types.Tag{{Key: aws.String("suite"), Value: aws.String("clients")}},
	})
	if err != nil {
		return nil, err
	}
	arn := made.InferenceProfileArn
	get := &bedrock.GetInferenceProfileInput{InferenceProfileIdentifier: arn}
	got, err := c.control.GetInferenceProfile(c.ctx, get)
	if err != nil {
		return nil, err
	}
	all, err := c.control.ListInferenceProfiles(c.ctx, &bedrock.ListInferenceProfilesInput{
		TypeEquals: types.InferenceProfileTypeApplication, MaxResults: aws.Int32(100),
	})
	if err != nil {
		return nil, err
	}
	listed := false
	for _, profile := range all.InferenceProfileSummaries {
		listed = listed || aws.ToString(profile.InferenceProfileArn) == aws.ToString(arn)
	}
	c.Model = aws.ToString(arn)
	answer, err := converse(c)
	if err != nil {
		return nil, err
	}
	if _, err := c.control.DeleteInferenceProfile(c.ctx, &bedrock.DeleteInferenceProfileInput{InferenceProfileIdentifier: arn}); err != nil {
		return nil, err
	}
	gone := "still there"
	var api smithy.APIError
	if _, err := c.control.GetInferenceProfile(c.ctx, get); errors.As(err, &api) {
		gone = api.ErrorCode()
	}
	return result{
		"name":   aws.ToString(got.InferenceProfileName),
		"status": string(made.Status),
		"listed": listed,
		"text":   answer["text"],
		"gone":   gone,
	}, nil
}
