"""llama.cpp's server on the CPU, a real server of OpenAI's API: python tests/support/llama_cpp_server.py MODEL PORT.
Ends with its input.
"""

import sys

import xllamacpp


def main(model: str, port: str):
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.port, parameters.n_ctx, parameters.n_parallel = model, int(port), 512, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
