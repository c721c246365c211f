"""`create` from a model that is not in the store: it is pulled first, from the registry in its name."""

import json

import pytest
from click.testing import CliRunner
from docker_registry import DockerRegistry
from live_server import free_port
from manage_models import make_model
from manage_world import talk
from registry_world import push

from vkbackend.server.cli.main import cli
from vkbackend.server.errors import ApiError
from vkbackend.server.library import create
from vkbackend.server.library.model import MAX_MANIFEST_BYTES, MAX_TEXT_BYTES
from vkbackend.server.library.names import parse_name
from vkbackend.server.library.store import Store
from vkbackend.server.wire import native


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Debian's, with library/base, whose system prompt is "S."."""
    folder = tmp_path_factory.mktemp("registry")
    with DockerRegistry(folder / "registry") as registry:
        source = Store(folder / "source")
        make_model(source, "base", folder, {"system": "S.", "parameters": {"top_k": 3.0}})
        name = f"{registry.host}/library/base"
        source.copy(parse_name("base"), parse_name(name))
        push(source, name)
        yield registry


def lines_of(store, **request) -> tuple[int, list[dict]]:
    """(status, lines) of POST /api/create."""

    async def conversation(client):
        async with client.post("/api/create", json=request) as answer:
            return answer.status, [json.loads(line) for line in (await answer.text()).splitlines()]

    return talk(store, conversation)


@pytest.mark.parametrize("has_host", [True, False])
def test_a_base_that_is_not_here_is_pulled_first(registry, store, monkeypatch, has_host):
    """Names without a host belong to Ollama's registry, which a mirror can replace."""
    host = registry.host if has_host else "registry.ollama.ai"
    monkeypatch.setenv("VKBACKEND_REGISTRY_URLS", f"{host}=http://{registry.host}")
    base = f"{host}/library/base" if has_host else "base"
    status, lines = lines_of(store, model="x", **{"from": base}, parameters={"seed": 1})
    told = list(dict.fromkeys(line["status"] for line in lines))
    assert status == 200 and told[0] == "pulling manifest" and lines[-1] == {"status": "success"}
    assert told.index("verifying sha256 digest") < told.index("writing manifest") < told.index("success")
    x = store.get("x")
    assert told.index("success") < told.index(f"using existing layer {x.model_layer.digest}")
    assert (x.system, x.parameters, x.parent) == ("S.", {"top_k": 3.0, "seed": 1.0}, store.get(base).name)


def test_a_base_that_is_here_is_not_pulled(store, tmp_path, monkeypatch):
    monkeypatch.setenv("VKBACKEND_REGISTRY_URLS", "registry.ollama.ai=http://127.0.0.1:1")
    make_model(store, "base", tmp_path)
    status, lines = lines_of(store, model="x", **{"from": "BASE"})
    assert status == 200 and lines[-1] == {"status": "success"}
    assert not [line for line in lines if "pulling" in line["status"]]


@pytest.mark.parametrize(
    "base, words",
    [
        ("nobody/nothing", "pull model manifest: file does not exist"),
        ("127.0.0.1:1/library/m", "pull model manifest: "),
    ],
)
def test_the_error_of_the_pull_is_reported(registry, store, monkeypatch, base, words):
    monkeypatch.setenv("VKBACKEND_REGISTRY_URLS", f"registry.ollama.ai=http://{registry.host}")
    status, lines = lines_of(store, model="x", **{"from": base})
    assert status == 200 and lines[0] == {"status": "pulling manifest"}
    assert len(lines) == 2 and lines[1]["error"].startswith(words)
    status, lines = lines_of(store, model="x", **{"from": base}, stream=False)
    assert status == 500 and lines[0]["error"].startswith(words)
    assert store.list() == []


def test_the_command_pulls_too(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("VKBACKEND_REGISTRY_URLS", f"registry.ollama.ai=http://{registry.host}")
    (tmp_path / "Modelfile").write_text("FROM base\nSYSTEM Be kind.")
    result = CliRunner().invoke(cli, ["create", "mine", "-f", str(tmp_path / "Modelfile")])
    assert result.exit_code == 0 and "pulling manifest" in result.output, result.output
    assert Store(tmp_path / "models").get("mine").system == "Be kind."
    (tmp_path / "Modelfile").write_text("FROM nothing")
    result = CliRunner().invoke(cli, ["create", "none", "-f", str(tmp_path / "Modelfile")])
    assert result.exit_code == 1 and "Error: pull model manifest: file does not exist" in result.output


@pytest.mark.parametrize(
    "field, at_most",
    [
        ("system", MAX_TEXT_BYTES),
        ("template", MAX_TEXT_BYTES),
        ("license", MAX_TEXT_BYTES),
        ("parameters", MAX_MANIFEST_BYTES - 20),
    ],
)
def test_texts_that_could_not_be_read_back_are_not_written(store, tmp_path, monkeypatch, field, at_most):
    make_model(store, "base", tmp_path)
    for size, fits in ((at_most, True), (at_most + 40, False)):
        value = {"stop": "x" * size} if field == "parameters" else "x" * size
        ask = native.CreateRequest(model="m", from_="base", **{field: value})
        if fits:
            create.create(store, ask, parse_name("m"), lambda *_, **__: None)
            assert len(str(getattr(store.get("m"), "licenses" if field == "license" else field))) >= size
        else:
            with pytest.raises(ApiError, match="the limit is (4|64) MiB"):
                create.create(store, ask, parse_name("m"), lambda *_, **__: None)
