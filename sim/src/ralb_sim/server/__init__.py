"""The HTTP edge: vLLM's endpoints in real time over one engine.

`runner` turns steps into real time, `parse` turns hostile bodies into plain requests, one module per API renders the answers,
`metrics` the page a scraper reads, `faults` what can be made to go wrong. No scheduling decision is taken here.
"""
