"""The management routes of the whole application, in this process, against recorded requests and answers."""

import asyncio
import json
import re

import pytest
from aiohttp.test_utils import TestClient, TestServer
from manage_models import make_model
from manage_world import NoModels, talk
from recorded import load
from yarl import URL

from vkbackend.device.selection import survey
from vkbackend.server.app import build_app
from vkbackend.server.cli import serve
from vkbackend.server.library.store import Store
from vkbackend.server.wire.native import ModelDetails, RunningModel

# Recorded without Go's ServeMux, which stands in front of the original's routes and redirects to clean paths.
UNCLEAN_PATH = "manage-017"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def _normal(text, store):
    """Without the order of parameters, times, digests and folders, which may differ."""
    text = text.replace(str(store.root), "<<MODELS>>")
    text = re.sub(r"sha256-[0-9a-f]{64}", "sha256-GGUF", text)
    text = re.sub(r'"modified_at":"[^"]*"', '"modified_at":"TIME"', text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    text = text.replace("http://127.0.0.1:11434", "")  # the recorded request line was absolute
    if '"modelfile"' not in text:
        return text
    answer = json.loads(text)
    for key in ("modelfile", "parameters"):
        if key in answer:
            answer[key] = sorted(answer[key].split("\n"))
    return list(answer.items())


def test_recorded_requests(store, tmp_path):
    vectors = load("handlers_manage")
    setup = next(vector for vector in vectors if vector.get("kind") == "setup")
    for name, settings in setup["models"].items():
        make_model(store, name, tmp_path, settings)
    vectors = [vector for vector in vectors if "order" in vector and vector["name"] != UNCLEAN_PATH]
    vectors = sorted(vectors, key=lambda vector: vector["order"])
    assert len(vectors) > 50

    async def conversation(client):
        differences = []
        for vector in vectors:
            url = URL(str(client.make_url("/"))[:-1] + vector["path"], encoded=True)
            answer = await client.session.request(
                vector["method"],
                url,
                data=vector["body"].encode(),
                allow_redirects=False,
                skip_auto_headers=["Content-Type"],
            )
            got = (answer.status, answer.headers.get("Content-Type", ""), _normal(await answer.text(), store))
            wanted = (vector["status"], vector["content_type"], _normal(vector.get("response", ""), store))
            if got != wanted:
                differences.append(
                    f"{vector['name']} {vector['method']} {vector['path']} {vector['body'][:60]}\n  got  {got}\n  "
                    f"want {wanted}"
                )
        return differences

    differences = talk(store, conversation)
    assert not differences, f"{len(differences)} of {len(vectors)} differ:\n" + "\n".join(differences)


def test_recorded_hosts_and_origins(store):
    vectors = load("http_access", "access")
    for address in sorted({vector["listen_addr"].rpartition(":")[0] for vector in vectors}):
        chosen = [vector for vector in vectors if vector["listen_addr"].startswith(address + ":")]

        async def conversation(client, chosen=chosen):
            for vector in chosen:
                headers = {"Host": vector["host_header"]} | ({"Origin": vector["origin"]} if vector["origin"] else {})
                answer = await client.request(vector["method"], vector["path"], headers=headers)
                text = await answer.text()
                assert (answer.status, "version" in text) == (vector["status"], "version" in vector["response"]), vector
                for name in ("Access-Control-Allow-Origin", "Vary", "Allow"):
                    assert _as_set(answer.headers.get(name)) == _as_set(vector["headers"].get(name)), (name, vector)

        talk(store, conversation, listen_address=address)


@pytest.mark.parametrize(
    "status, hosts",
    [
        (
            403,
            [
                "[127.0.0.1].evil.com:80",
                "[::1].evil.com",
                "[::1]evil.com:80",
                "127.0.0.1.evil.com",
                "127.0.0.1:80:80",
                "[::1]:80:80",
                "[::1",
                "::1]:80",
                "[[::1]]:80",
                "[127.0.0.1]:80]",
                "evil.com:localhost",
            ],
        ),
        (400, ["127.0.0.1@evil.com", "localhost/evil.com", "localhost evil.com", "localhost\\evil.com", "localhost?"]),
        (
            200,
            [
                "[127.0.0.1]:80",
                "[::1]:80",
                "::1",
                "[::ffff:127.0.0.1]:80",
                "localhost:",
                "LOCALHOST:1",
                ":80",
                "[a.localhost]:80",
                "[localhost]:80.evil.com",
            ],
        ),
    ],
)
def test_a_host_is_split_as_gos_net_does(store, status, hosts):
    async def conversation(client):
        return {host: (await client.get("/api/version", headers={"Host": host})).status for host in hosts}

    assert talk(store, conversation, listen_address="127.0.0.1") == dict.fromkeys(hosts, status)


def _as_set(text):
    return set(text.split(", ")) if text else set()


def test_origins_of_the_environment_and_any_origin(store):
    async def status_and_origin(client):
        answer = await client.get("/api/version", headers={"Origin": "https://my.page"})
        return answer.status, answer.headers.get("Access-Control-Allow-Origin")

    assert talk(store, status_and_origin, origins=["https://*.page"]) == (200, "https://my.page")
    assert talk(store, status_and_origin, origins=["*"]) == (200, "*")
    assert talk(store, status_and_origin, origins=["https://other.page"]) == (403, None)


def test_a_handler_that_fails_answers_500_and_the_server_keeps_running(store):
    class Broken(NoModels):
        def running(self):
            raise RuntimeError("the cat ate it")

    async def run():
        async with TestClient(TestServer(build_app(store, Broken()))) as client:
            answer = await client.get("/api/ps")
            return answer.status, await answer.json(), (await client.get("/api/version")).status

    assert asyncio.run(run()) == (500, {"error": "RuntimeError: the cat ate it"}, 200)


def test_running_models_are_listed_with_their_details(store):
    class Two(NoModels):
        def running(self):
            return [
                RunningModel(
                    name,
                    "m:latest",
                    5,
                    "d",
                    ModelDetails(format="gguf", family="llama"),
                    f"{year}-01-01T00:00:00Z",
                    0,
                    4096,
                )
                for name, year in (("b", 2025), ("a", 2024))
            ]

    async def run():
        async with TestClient(TestServer(build_app(store, Two()))) as client:
            return await (await client.get("/api/ps")).text()

    text = asyncio.run(run())
    assert [model["name"] for model in json.loads(text)["models"]] == ["b", "a"]
    assert text.startswith(
        '{"models":[{"name":"b","model":"m:latest","size":5,"digest":"d","details":{"parent_model":"","format":"gguf",'
    )


@pytest.mark.parametrize("damage", [b'{"layers":[{"size":1e999}]}', b"[" * 100_000])
def test_one_odd_manifest_leaves_the_others_in_use(store, tmp_path, damage):
    """Left out of lists, an error when it is named, and it can be deleted."""
    make_model(store, "sound", tmp_path)
    make_model(store, "odd", tmp_path, {"system": "S."})
    (store.manifests / "registry.ollama.ai" / "library" / "odd" / "latest").write_bytes(damage)

    async def conversation(client):
        async def ask(method, path, body=None):
            async with client.request(method, path, json=body) as answer:
                text = await answer.text()
                return answer.status, text

        listed = await ask("GET", "/api/tags")
        assert listed[0] == 200 and [model["name"] for model in json.loads(listed[1])["models"]] == ["sound:latest"]
        assert (await ask("POST", "/api/show", {"model": "sound"}))[0] == 200
        for path in ("/api/show", "/api/generate"):
            status, text = await ask("POST", path, {"model": "odd"})
            assert status == 500 and "manifest of odd:latest is damaged" in text and "delete it" in text
        status, text = await ask("POST", "/api/create", {"model": "more", "from": "sound", "system": "T."})
        assert status == 200 and json.loads(text.splitlines()[-1]) == {"status": "success"}
        assert (await ask("DELETE", "/api/delete", {"model": "more"}))[0] == 200
        assert (await ask("DELETE", "/api/delete", {"model": "odd"}))[0] == 200
        assert (await ask("POST", "/api/show", {"model": "odd"}))[0] == 404

    assert talk(store, conversation) is None
    assert serve.ready_lines("http://127.0.0.1:1", survey(), store)[-1].startswith("Try: ")
