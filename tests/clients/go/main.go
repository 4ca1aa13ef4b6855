// The AWS SDK for Go v2: one JSON request per line in, one JSON answer per line out.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/bedrock"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

type request struct {
	ID        int    `json:"id"`
	Case      string `json:"case"`
	Model     string `json:"model"`
	Text      string `json:"text"`
	Retries   string `json:"retries"`
	Tools     bool   `json:"tools"`
	Size      int    `json:"size"`
	Guardrail string `json:"guardrail"`
	Profile   string `json:"profile"`
	Name      string `json:"name"`
	Source    string `json:"source"`
}

// clients are kept as an application would keep them: one set that retries, one that does not.
type clients struct {
	runtime *bedrockruntime.Client
	control *bedrock.Client
}

type result map[string]any

type call struct {
	ctx context.Context
	request
	clients
	emit func(event string)
}

var cases = map[string]func(call) (result, error){
	"invoke":            invoke,
	"invoke_stream":     invokeStream,
	"converse":          converse,
	"converse_tools":    converseTools,
	"converse_image":    converseImage,
	"converse_stream":   converseStream,
	"count_tokens":      countTokens,
	"apply_guardrail":   applyGuardrail,
	"guardrail_checks":  guardrailChecks,
	"async_invoke":      asyncInvoke,
	"list_models":       listModels,
	"get_model":         getModel,
	"list_profiles":     listProfiles,
	"get_profile":       getProfile,
	"profile_lifecycle": profileLifecycle,
}

func main() {
	ctx := context.Background()
	settings, err := config.LoadDefaultConfig(ctx, config.WithBaseEndpoint(os.Getenv("ENDPOINT")))
	if err != nil {
		panic(err)
	}
	patient := connect(settings)
	settings.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	hasty := connect(settings)

	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var asked request
		if err := json.Unmarshal(line, &asked); err != nil {
			panic(err)
		}
		seen := []string{}
		c := call{ctx: ctx, request: asked, clients: hasty}
		if asked.Retries == "default" {
			c.clients = patient
		}
		c.emit = func(event string) {
			seen = append(seen, event)
			out.Encode(map[string]any{"id": asked.ID, "event": event})
		}
		done := map[string]any{}
		if run, known := cases[asked.Case]; !known {
			done = map[string]any{"ok": false, "error": map[string]any{"class": "no such case"}}
		} else if answer, err := run(c); err != nil {
			done = map[string]any{"ok": false, "error": describe(err), "events": seen}
		} else {
			done = map[string]any{"ok": true, "result": answer}
		}
		if err := out.Encode(map[string]any{"id": asked.ID, "done": done}); err != nil {
			panic(err)
		}
	}
}

func connect(settings aws.Config) clients {
	return clients{runtime: bedrockruntime.NewFromConfig(settings), control: bedrock.NewFromConfig(settings)}
}

// describe says what an application can see of an error: its type, code, message and status.
func describe(err error) map[string]any {
	seen := map[string]any{"class": fmt.Sprintf("%T", innermost(err)), "message": err.Error()}
	var api smithy.APIError
	if errors.As(err, &api) {
		seen["class"], seen["code"], seen["message"] = fmt.Sprintf("%T", api), api.ErrorCode(), api.ErrorMessage()
	}
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		seen["status"] = response.HTTPStatusCode()
	}
	return seen
}

func innermost(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}
