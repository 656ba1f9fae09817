"""A program in place of `ringlens.live.worker`: thinks about words, without a model.

What it does with a prompt follows from its first word: ``count N`` tells N tokens, ``wait`` goes on
until it is told to stop, ``fail`` cannot be thought about, ``die`` ends the process.
"""

BOOT = """
import sys
given, *sys.path = sys.argv[1:]
from live_worker import main
main()
"""

SHAPE = {"layers": 4, "sparse_layers": [1, 2, 3], "experts": 16, "heads": 4}


def main():
    """Answer messages until there are no more."""
    import json

    from ringlens.sandbox.channel import ChannelClosedError, of_standard_pipes

    channel = of_standard_pipes()

    def tell(**message):
        channel.send(json.dumps(message).encode())

    tell(what="ready", **SHAPE)
    while True:
        try:
            message = json.loads(channel.receive(10**6))
        except ChannelClosedError:
            return
        if message["what"] == "end":
            return
        if message["what"] == "think":
            think(message, tell, lambda: json.loads(channel.receive(10**6)))


def think(message, tell, hear):
    """Think about one prompt."""
    import os
    import sys

    number, prompt = message["number"], message["asked"]["prompt"]
    word, *rest = prompt.split()
    tell(what="steps", number=number, trace=None, tokens=[[prompt, 0, None]], reread={})
    if word == "die":
        print("Traceback\nOutOfMemoryError: too much", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)
    if word == "fail":
        return tell(what="failed", number=number, error="layer 9 has no experts.")
    reason = "stop"
    if word == "wait":
        assert hear() == {"what": "stop", "number": number}
        reason = "interrupted"
    for i in range(int(rest[0]) if word == "count" else 1):
        tell(what="steps", number=number, trace=number, tokens=[[f" {i}", 1, i / 2]], reread={})
    tell(what="steps", number=number, trace=number, tokens=[], reread={"1": 2})
    return tell(what="ended", number=number, trace=number, reason=reason)
