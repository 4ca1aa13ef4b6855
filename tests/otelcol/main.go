// An OpenTelemetry Collector of few parts, for tests/e2e/open_telemetry/real_collector.rs: it receives OTLP, and writes what
// it has decoded to its standard output, a line of OTLP/JSON for each export.
package main

import (
	"context"
	"log"
	"os"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

const config = `
receivers:
  otlp: { protocols: { http: { endpoint: "%ADDRESS%" } } }
exporters:
  lines: {}
service:
  telemetry: { metrics: { level: none }, logs: { level: info } }
  pipelines:
    traces: { receivers: [otlp], exporters: [lines] }
    metrics: { receivers: [otlp], exporters: [lines] }
`

func configFor(address string) string { return strings.Replace(config, "%ADDRESS%", address, 1) }

// lines is the exporter. Pipelines may call it at the same time.
type lines struct {
	component.StartFunc
	component.ShutdownFunc
	out *sync.Mutex
}

func (lines) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (l lines) write(line []byte, err error) error {
	if err != nil {
		return err
	}
	l.out.Lock()
	defer l.out.Unlock()
	_, err = os.Stdout.Write(append(line, '\n'))
	return err
}

func (l lines) ConsumeTraces(_ context.Context, traces ptrace.Traces) error {
	return l.write((&ptrace.JSONMarshaler{}).MarshalTraces(traces))
}

func (l lines) ConsumeMetrics(_ context.Context, metrics pmetric.Metrics) error {
	return l.write((&pmetric.JSONMarshaler{}).MarshalMetrics(metrics))
}

func factory() exporter.Factory {
	one := lines{out: &sync.Mutex{}}
	return exporter.NewFactory(
		component.MustNewType("lines"),
		func() component.Config { return &struct{}{} },
		exporter.WithTraces(func(context.Context, exporter.Settings, component.Config) (exporter.Traces, error) {
			return one, nil
		}, component.StabilityLevelDevelopment),
		exporter.WithMetrics(func(context.Context, exporter.Settings, component.Config) (exporter.Metrics, error) {
			return one, nil
		}, component.StabilityLevelDevelopment),
	)
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: otelcol ADDRESS")
	}
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Version: "test"},
		Factories: func() (otelcol.Factories, error) {
			receivers, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
			if err != nil {
				return otelcol.Factories{}, err
			}
			exporters, err := otelcol.MakeFactoryMap[exporter.Factory](factory())
			return otelcol.Factories{
				Receivers: receivers,
				Exporters: exporters,
				Telemetry: otelconftelemetry.NewFactory(),
			}, err
		},
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs:              []string{"yaml:" + configFor(os.Args[1])},
			ProviderFactories: []confmap.ProviderFactory{yamlprovider.NewFactory()},
		}},
	}
	collector, err := otelcol.NewCollector(settings)
	if err != nil {
		log.Fatal(err)
	}
	if err := collector.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
