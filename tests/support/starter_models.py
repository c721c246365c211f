"""The real models that tests use, in the cache folder where scripts/setup.sh puts them."""

from vulkan_drivers import missing

from vkbackend import settings

FILES = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
    "qwen2.5-coder": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
}


def model_path(name: str):
    """Skips by name where the file is not there; with CI=1 that is a failure."""
    path = settings.cache_folder() / "models" / FILES[name]
    if not path.exists():
        missing(f"model {path} is not there (bash scripts/setup.sh --tests fetches it)")
    return path
