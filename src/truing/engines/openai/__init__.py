"""Models behind an OpenAI-compatible interface, through the `openai` SDK on its aiohttp transport.

    engine      answers of a checkpoint, as every engine gives them
    completer   chat requests in, results out, for judges
    calls       live calls: pace, retries, single flight      attempts    one attempt and what follows from it
    batches     the Batch API                                 transport   the SDK, made lean
    wire        bytes, keys, reading of replies

Address, journal, caps and prices are in `truing.endpoint`. Nothing of the SDK is imported before the first call.
"""

from truing.endpoint.address import endpoint_weights
from truing.endpoint.journal import Account
from truing.endpoint.pricing import Prices, load_prices
from truing.engines.openai.completer import OpenAICompleter
from truing.engines.openai.engine import OpenAIEngine

__all__ = ["Account", "OpenAICompleter", "OpenAIEngine", "Prices", "endpoint_weights", "load_prices"]
