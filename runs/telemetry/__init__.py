"""How runs appear in OpenTelemetry: one trace from the request to what the agents call.

``traceparent`` is how a trace continues in another process, ``spans`` are those of runs and calls,
and ``listener`` hears of a run's events for them and for the metrics.
Nothing here imports OpenTelemetry unless the site has set it up.
"""
