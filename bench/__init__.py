"""`make bench`: what Tidegate costs, next to nginx and Envoy in the same run.

    __main__.py   options, the order of the run
    load.py       the request that everyone sends, in all its forms
    clients.py    wrk and h2load, and own clients where these are missing
    peers.py      nginx, Envoy and Tidegate, configured alike
    upstream.py   the Triton behind them
    proc.py       CPU and memory of process trees, from /proc
    latency.py    what a proxy adds to one request at a time
    report.py     JSON, Markdown and SVG under `results/`

Method: CPU of a proxy is user and system time of its whole process tree (/proc/PID/stat) over a run of at
least 20,000 requests, divided by the requests. Every proxy runs in turn, alone, with one worker, in front of
the same Triton; then all of them once more. The ratios and their spread are what counts. Requests a second
and latency come second, since client, Triton and proxy share the machine's cores. Bias, stated: all programs
run with their access logs off, and the load is one small model; larger tensors cost every proxy more.
"""
