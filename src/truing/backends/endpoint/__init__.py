"""The client of OpenAI-compatible endpoints.

Folders of providers know nothing of each other; those whose servers speak this protocol (openai/, vllm/) share this.

    completer  chat requests in, results out               address   where it is, what opens it, names of models
    calls      live calls: pace, retries, order            client    an endpoint that is open; attempts at a call
    batches    the Batch API: half the price, up to a day  faults    what failed attempts mean, how long to wait
    journal    finished calls, what all cost, the caps     wire      the bytes of a request, the reading of a reply
    pricing    what tokens cost                            answers   a checkpoint's answers by chat requests

Nothing of the SDK is imported before it is used.
"""
