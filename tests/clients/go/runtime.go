package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
)

func messagesBody(c call) []byte {
	body, err := json.Marshal(map[string]any{
		"anthropic_version": "bedrock-2023-05-31",
		"max_tokens":        64,
		"messages":          []any{map[string]any{"role": "user", "content": c.Text}},
	})
	if err != nil {
		panic(err)
	}
	return body
}

func conversation(c call) *bedrockruntime.ConverseInput {
	return &bedrockruntime.ConverseInput{
		ModelId: aws.String(c.Model),
		System:  []types.SystemContentBlock{&types.SystemContentBlockMemberText{Value: "Answer in one word."}},
		Messages: []types.Message{{
			Role:    types.ConversationRoleUser,
			Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: c.Text}},
		}},
		InferenceConfig: &types.InferenceConfiguration{MaxTokens: aws.Int32(64), Temperature: aws.Float32(0.5)},
	}
}

func weather() *types.ToolConfiguration {
	schema := map[string]any{
		"type":       "object",
		"properties": map[string]any{"city": map[string]any{"type": "string"}},
		"required":   []string{"city"},
	}
	return &types.ToolConfiguration{Tools: []types.Tool{&types.ToolMemberToolSpec{Value: types.ToolSpecification{
		Name:        aws.String("weather"),
		Description: aws.String("The weather in a city"),
		InputSchema: &types.ToolInputSchemaMemberJson{Value: document.NewLazyDocument(schema)},
	}}}}
}

func image(size int) []byte {
	bytes := make([]byte, size)
	head := copy(bytes, "\x89PNG\r\n\x1a\n")
	for i := head; i < size; i++ {
		bytes[i] = byte((i - head) % 251 * 7 % 251)
	}
	return bytes
}

func said(answer *bedrockruntime.ConverseOutput) result {
	text, tools, inputs := "", []string{}, []any{}
	for _, block := range answer.Output.(*types.ConverseOutputMemberMessage).Value.Content {
		switch block := block.(type) {
		case *types.ContentBlockMemberText:
			text += block.Value
		case *types.ContentBlockMemberToolUse:
			tools = append(tools, aws.ToString(block.Value.Name))
			var input any
			if err := block.Value.Input.UnmarshalSmithyDocument(&input); err == nil {
				inputs = append(inputs, fmt.Sprint(input))
			}
		}
	}
	return result{
		"text":  text,
		"tools": tools,
		"stop":  string(answer.StopReason),
		"usage": usage(answer.Usage),
		"raw":   result{"output": answer.Output, "inputs": inputs, "usage": answer.Usage, "metrics": answer.Metrics},
	}
}

func usage(counted *types.TokenUsage) []int32 {
	return []int32{aws.ToInt32(counted.InputTokens), aws.ToInt32(counted.OutputTokens)}
}

func invoke(c call) (result, error) {
	answer, err := c.runtime.InvokeModel(c.ctx, &bedrockruntime.InvokeModelInput{
		ModelId: aws.String(c.Model), Body: messagesBody(c), ContentType: aws.String("application/json"),
	})
	if err != nil {
		return nil, err
	}
	var body struct{ Content []struct{ Text string } }
	if err := json.Unmarshal(answer.Body, &body); err != nil {
		return nil, err
	}
	return result{
		"text":        body.Content[0].Text,
		"contentType": aws.ToString(answer.ContentType),
		"raw":         json.RawMessage(answer.Body),
	}, nil
}

func invokeStream(c call) (result, error) {
	answer, err := c.runtime.InvokeModelWithResponseStream(c.ctx, &bedrockruntime.InvokeModelWithResponseStreamInput{
		ModelId: aws.String(c.Model), Body: messagesBody(c), ContentType: aws.String("application/json"),
	})
	if err != nil {
		return nil, err
	}
	stream := answer.GetStream()
	defer stream.Close()
	text, chunks := "", []json.RawMessage{}
	for event := range stream.Events() {
		bytes := event.(*types.ResponseStreamMemberChunk).Value.Bytes
		chunks = append(chunks, bytes)
		var chunk struct {
			Type  string
			Delta struct{ Text string }
		}
		if err := json.Unmarshal(bytes, &chunk); err != nil {
			return nil, err
		}
		text += chunk.Delta.Text
		c.emit("chunk")
	}
	return result{"text": text, "events": len(chunks), "raw": chunks}, stream.Err()
}

func converse(c call) (result, error) {
	answer, err := c.runtime.Converse(c.ctx, conversation(c))
	if err != nil {
		return nil, err
	}
	return said(answer), nil
}

// converseTools lets the model ask for a tool, and gives it what the tool said.
func converseTools(c call) (result, error) {
	ask := conversation(c)
	ask.ToolConfig = weather()
	first, err := c.runtime.Converse(c.ctx, ask)
	if err != nil {
		return nil, err
	}
	message := first.Output.(*types.ConverseOutputMemberMessage).Value
	results := []types.ContentBlock{}
	for _, block := range message.Content {
		if use, ok := block.(*types.ContentBlockMemberToolUse); ok {
			sky := document.NewLazyDocument(map[string]string{"output": "clear"})
			results = append(results, &types.ContentBlockMemberToolResult{Value: types.ToolResultBlock{
				ToolUseId: use.Value.ToolUseId,
				Content:   []types.ToolResultContentBlock{&types.ToolResultContentBlockMemberJson{Value: sky}},
			}})
		}
	}
	ask.Messages = append(ask.Messages, message, types.Message{Role: types.ConversationRoleUser, Content: results})
	second, err := c.runtime.Converse(c.ctx, ask)
	if err != nil {
		return nil, err
	}
	return result{"first": said(first), "second": said(second)}, nil
}

func converseImage(c call) (result, error) {
	ask := conversation(c)
	cachePoint := types.CachePointBlock{Type: types.CachePointTypeDefault}
	ask.Messages[0].Content = append(ask.Messages[0].Content,
		&types.ContentBlockMemberImage{Value: types.ImageBlock{
			Format: types.ImageFormatPng,
			Source: &types.ImageSourceMemberBytes{Value: image(c.Size)},
		}},
		&types.ContentBlockMemberCachePoint{Value: cachePoint},
	)
	ask.System = append(ask.System, &types.SystemContentBlockMemberCachePoint{Value: cachePoint})
	answer, err := c.runtime.Converse(c.ctx, ask)
	if err != nil {
		return nil, err
	}
	return said(answer), nil
}

func converseStream(c call) (result, error) {
	ask := conversation(c)
	input := &bedrockruntime.ConverseStreamInput{
		ModelId: ask.ModelId, System: ask.System, Messages: ask.Messages, InferenceConfig: ask.InferenceConfig,
	}
	if c.Tools {
		input.ToolConfig = weather()
	}
	answer, err := c.runtime.ConverseStream(c.ctx, input)
	if err != nil {
		return nil, err
	}
	stream := answer.GetStream()
	defer stream.Close()
	text, stop, counted, raw := "", "", []int32{}, []result{}
	for event := range stream.Events() {
		kind := fmt.Sprintf("%T", event)
		kind = strings.TrimPrefix(kind, "*types.ConverseStreamOutputMember")
		kind = strings.ToLower(kind[:1]) + kind[1:]
		raw = append(raw, result{kind: event})
		switch event := event.(type) {
		case *types.ConverseStreamOutputMemberContentBlockDelta:
			if delta, ok := event.Value.Delta.(*types.ContentBlockDeltaMemberText); ok {
				text += delta.Value
			}
		case *types.ConverseStreamOutputMemberMessageStop:
			stop = string(event.Value.StopReason)
		case *types.ConverseStreamOutputMemberMetadata:
			counted = usage(event.Value.Usage)
		}
		c.emit(kind)
	}
	return result{"text": text, "stop": stop, "usage": counted, "events": len(raw), "raw": raw}, stream.Err()
}

func countTokens(c call) (result, error) {
	ask := conversation(c)
	inputs := []types.CountTokensInput{
		&types.CountTokensInputMemberConverse{
			Value: types.ConverseTokensRequest{Messages: ask.Messages, System: ask.System},
		},
		&types.CountTokensInputMemberInvokeModel{Value: types.InvokeModelTokensRequest{Body: messagesBody(c)}},
	}
	tokens := []int32{}
	for _, input := range inputs {
		answer, err := c.runtime.CountTokens(c.ctx, &bedrockruntime.CountTokensInput{ModelId: ask.ModelId, Input: input})
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, aws.ToInt32(answer.InputTokens))
	}
	return result{"tokens": tokens}, nil
}

func applyGuardrail(c call) (result, error) {
	answer, err := c.runtime.ApplyGuardrail(c.ctx, &bedrockruntime.ApplyGuardrailInput{
		GuardrailIdentifier: aws.String(c.Guardrail),
		GuardrailVersion:    aws.String("1"),
		Source:              types.GuardrailContentSourceInput,
		Content: []types.GuardrailContentBlock{
			&types.GuardrailContentBlockMemberText{Value: types.GuardrailTextBlock{Text: aws.String(c.Text)}},
		},
	})
	if err != nil {
		return nil, err
	}
	return result{"action": string(answer.Action), "raw": result{
		"outputs": answer.Outputs, "assessments": answer.Assessments, "usage": answer.Usage,
	}}, nil
}

func guardrailChecks(c call) (result, error) {
	answer, err := c.runtime.InvokeGuardrailChecks(c.ctx, &bedrockruntime.InvokeGuardrailChecksInput{
		Messages: []types.GuardrailChecksMessage{{
			Role:    types.GuardrailChecksRoleUser,
			Content: []types.GuardrailChecksContentBlock{&types.GuardrailChecksContentBlockMemberText{Value: c.Text}},
		}},
		Checks: &types.GuardrailChecksConfig{
			ContentFilter: &types.GuardrailChecksContentFilterConfig{
				Categories: []types.GuardrailChecksContentFilterCategoryConfig{{Category: "VIOLENCE"}},
			},
			PromptAttack: &types.GuardrailChecksPromptAttackConfig{
				Categories: []types.GuardrailChecksPromptAttackCategoryConfig{{Category: "JAILBREAK"}},
			},
		},
	})
	if err != nil {
		return nil, err
	}
	checks := []string{}
	if answer.Results.ContentFilter != nil {
		checks = append(checks, "contentFilter")
	}
	if answer.Results.PromptAttack != nil {
		checks = append(checks, "promptAttack")
	}
	return result{"checks": checks, "raw": result{"results": answer.Results, "usage": answer.Usage}}, nil
}

func asyncInvoke(c call) (result, error) {
	started, err := c.runtime.StartAsyncInvoke(c.ctx, &bedrockruntime.StartAsyncInvokeInput{
		ModelId:    aws.String(c.Model),
		ModelInput: document.NewLazyDocument(map[string]string{"prompt": c.Text}),
		OutputDataConfig: &types.AsyncInvokeOutputDataConfigMemberS3OutputDataConfig{
			Value: types.AsyncInvokeS3OutputDataConfig{S3Uri: aws.String("s3://answers/here")},
		},
	})
	if err != nil {
		return nil, err
	}
	arn := aws.ToString(started.InvocationArn)
	got, err := c.runtime.GetAsyncInvoke(c.ctx, &bedrockruntime.GetAsyncInvokeInput{InvocationArn: &arn})
	if err != nil {
		return nil, err
	}
	all, err := c.runtime.ListAsyncInvokes(c.ctx, &bedrockruntime.ListAsyncInvokesInput{MaxResults: aws.Int32(50)})
	if err != nil {
		return nil, err
	}
	listed := false
	for _, entry := range all.AsyncInvokeSummaries {
		listed = listed || aws.ToString(entry.InvocationArn) == arn
	}
	return result{
		"arn":    arn,
		"same":   aws.ToString(got.InvocationArn) == arn,
		"status": string(got.Status),
		"listed": listed,
		"raw":    result{"model": got.ModelArn, "output": got.OutputDataConfig},
	}, nil
}
