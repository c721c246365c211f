"""change_store.py STORE SEED [GGUF...]: creates, copies and deletes models in a store for ever, as a server does;
made to be killed.

Prints a line before each change. Models are made of the given GGUF files (and quantized), of each other, and of
texts.
"""

import itertools
import random
import sys

from vkbackend.server.errors import ApiError
from vkbackend.server.library import create
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import ModelNotFound, Store
from vkbackend.server.wire import native


def main(root: str, seed: str, *files: str):
    store, rng = Store(root), random.Random(seed)
    for number in itertools.count():
        name, other = (f"m{rng.randrange(5)}" for _ in range(2))
        action = rng.choice(("file", "quantize", "text", "copy", "delete"))
        print(number, action, name, other, flush=True)
        try:
            if action in ("file", "quantize"):
                with open(rng.choice(files), "rb") as file, store.upload() as upload:
                    upload.write(file.read())
                    digest = upload.finish()
                    make(
                        store,
                        name,
                        files={"m.gguf": digest},
                        quantize=rng.choice(("q8_0", "q4_0", "q4_K_M")) if action == "quantize" else "",
                    )
            elif action == "text":
                make(store, name, from_=other, system=f"System {number}.", license=[f"Licence {number % 3}."])
            elif action == "copy":
                store.copy(parse_name(other), parse_name(name))
            else:
                store.delete(parse_name(name))
        except ModelNotFound:
            pass
        except ApiError as error:
            if (
                error.status != 404 and "does not exist; upload it first" not in error.message
            ):  # another deleted the blob between upload and create
                raise


def make(store, name, **request):
    ask = native.CreateRequest(model=name, **request)
    create.create(store, ask, create.checked_name(ask), lambda status, digest="", total=0, completed=0: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
