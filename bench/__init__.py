"""`make bench`: what Tidegate costs, next to nginx, Envoy and the KServe SDK transformer in the same run.

    __main__.py   options; every section in turn, with the time left
    section.py    what a section is given and gives back: the rules for new ones
    sections.py   the list of sections
    runs.py       a run's folder under `results/`: what was asked, what is done, what to continue
    page.py       Markdown and pictures of a run, and the tables of `docs/performance.md`
    svg.py        a bar chart

    counted.py    what one call costs: instructions by callgrind, CPU time of the thread
    gate.py       blocks on instructions above those in gate.json
    cases_*.py    the calls: kernels and codecs, steps of the pipeline, the policy

    proxies.py    HTTP and gRPC through every proxy: CPU, rate, added latency, memory
    peers.py      nginx, Envoy, KServe and Tidegate: how each is found, started and stopped (configs.py)
    measure.py    one proxy, one round
    load.py       the request that everyone sends, in all its forms
    clients.py    wrk and h2load, and own clients where these are missing
    latency.py    what a proxy adds to one request at a time
    upstream.py   the Triton behind them
    alone.py      the gateway in front of a null upstream (null.py, native/): rate, tail latency, workers
    streams.py    messages of ModelStreamInfer, events of generate_stream
    tensors.py    JSON and large tensors
    costs.py      steps, kernels and policy sizes
    memory.py     an idle worker, a cold start, growth under load
    openloop.py, overload.py   the overload curve, apart from the suite
    proc.py       CPU and memory of process trees, from /proc

Method: CPU of a proxy is user and system time of its whole process tree (/proc/PID/stat) over a run of at
least 20,000 requests, divided by the requests. Every proxy runs in turn, alone, with one worker, in front of
the same Triton; then all of them once more. The ratios and their spread are what counts. Requests a second
and latency come second, since client, Triton and proxy share the machine's cores. Bias, stated: all programs
run with their access logs off, and the load is one small model; larger tensors cost every proxy more.
"""
