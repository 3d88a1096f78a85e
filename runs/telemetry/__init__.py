"""How runs appear in OpenTelemetry: one trace from the request to what the agents call.

``traceparent`` is how a trace continues in another process, ``spans`` are those of runs and calls.
Nothing here imports OpenTelemetry unless the site has set it up.
"""
