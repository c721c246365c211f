"""Creates a model from uploaded GGUF or safetensors files or from another model: /api/create without HTTP.

In: a CreateRequest. Out: a manifest in the store, and status texts in Ollama's order. Layers that the request has
(template, system, parameters, messages) replace those of the base model; licenses are added.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from vkbackend.errors import VkbackendError
from vkbackend.gguf.reader import GGUFFile

from ..errors import ApiError
from ..go import encode
from ..go.human import human_number
from ..prompts.gotemplate import Template, TemplateError
from ..wire.native import CreateRequest, Message
from .convert import Source, from_adapter_folder, from_folder, from_gguf, write_model
from .describe import parameter_count
from .model import (
    ADAPTER,
    CONFIG_TYPE,
    LICENSE,
    MESSAGES,
    MODEL,
    PARAMS,
    PROJECTOR,
    SYSTEM,
    TEMPLATE,
    Layer,
    ModelNotFound,
)
from .names import ModelName, parse_name
from .new_layer import NewLayer, check_size, detected_template, json_layer, licenses, media_type_of, without
from .quantization import CAN_BE_QUANTIZED, quantization_level, quantize_target
from .store import Store
from .upload import Upload

_WEIGHT_TYPES = (MODEL, ADAPTER, PROJECTOR)
MAX_PATH = 4096
INVALID_NAME = "invalid model name"
UNKNOWN_TYPE = "unknown type"
ONE_ADAPTER = "only one adapter is currently supported"


class Report(Protocol):
    """Receives the progress of a task; `total` and `completed` in bytes."""

    def __call__(self, status: str, digest: str = "", total: int = 0, completed: int = 0) -> None: ...


def checked_name(request: CreateRequest) -> ModelName:
    """The name of the new model. Raises ApiError 400 if it is invalid, or the path of a file is not relative."""
    for path in request.files or {}:
        if len(path) > MAX_PATH:
            raise ApiError(400, f"file path has {len(path)} characters; the limit is {MAX_PATH}")
        # A valid path of Go's io/fs: no empty, "." or ".." element, hence relative and inside its folder.
        if path != "." and any(part in ("", ".", "..") for part in path.split("/")):
            raise ApiError(400, "file path must be relative")
    name = parse_name(request.model or request.name)
    if not name.is_valid:
        raise ApiError(400, INVALID_NAME)
    return name


def create(
    store: Store,
    request: CreateRequest,
    name: ModelName,
    report: Report,
    pull: Callable[[str], None] | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Create the model `name`.

    `report(status)` is called for each step, with `digest`, `total` and `completed` while weights are written.
    `pull(name)` fetches a base model that is not in the store; without it, a missing one is an error.
    Raises ApiError, VkbackendErrors that mean status 500, and what `pull` raises.

    Reading the base and writing weights is slow and happens first; the store is locked only to add the layers.
    """
    with ExitStack() as uploads:
        creation = _Creation(store, request, report, uploads, pull, is_cancelled)
        layers = creation.prepare(name)
        with store.lock:
            creation.write(store.existing_name(name), layers)
    report("success")


class _Creation:
    def __init__(
        self,
        store: Store,
        request: CreateRequest,
        report: Report,
        uploads: ExitStack,
        pull: Callable[[str], None] | None,
        is_cancelled: Callable[[], bool],
    ):
        self.store = store
        self.request = request
        self.report = report
        self.uploads = uploads
        self.pull = pull
        self.is_cancelled = is_cancelled
        self.config = {"renderer": request.renderer, "parser": request.parser}

    def prepare(self, name: ModelName) -> list[NewLayer]:
        request = self.request
        if request.remote_host:
            raise ApiError(
                400,
                f"{name.shortest} would run on {request.remote_host}: remote models are not supported; leave out "
                "remote_host",
            )
        if request.from_:
            layers = self.from_model(request.from_)
        elif request.files is not None:
            layers = self.from_files(request.files)
        else:
            raise ApiError(400, "neither 'from' or 'files' was specified")
        if request.adapters is not None:
            layers = [*layers, self.adapter(request.adapters, layers)]
        if request.files and all(layer.media_type == ADAPTER for layer in layers if layer.gguf):
            raise ApiError(400, "the files are an adapter without its model; name the model with 'from'")
        return self.with_texts(self.quantized(layers))

    def write(self, name: ModelName, new_layers: list[NewLayer]) -> None:
        layers, statuses = [], []
        for new in new_layers:
            digest, is_new = self.digest_of(new)
            layers.append(Layer(new.media_type, digest, self.blob(digest).stat().st_size, new.source))
            statuses.append(new.status or f"{'creating new' if is_new else 'using existing'} layer {digest}")
        document = encode.dumps(self.config_document(new_layers, layers)).encode()
        config = Layer(CONFIG_TYPE, self.store.add_blob(document)[0], len(document))
        for status in [*statuses, "writing manifest"]:
            self.report(status)
        self.store.write_manifest(name, config, layers)
        self.restore_blobs(new_layers, layers, document)

    def restore_blobs(self, new_layers: list[NewLayer], layers: list[Layer], config_document: bytes) -> None:
        """Write back missing blobs: an Ollama server that starts now prunes blobs that no manifest references yet."""
        if not all(self.store.blob_path(layer.digest).is_file() for layer in layers):
            for new in new_layers:
                self.digest_of(new)
        self.store.add_blob(config_document)
        for layer in layers:
            self.blob(layer.digest)

    def digest_of(self, layer: NewLayer) -> tuple[str, bool]:
        """(digest of the layer's blob, whether the blob is new); adds the blob to the store."""
        if layer.upload is not None:
            is_new = not self.store.blob_path(layer.upload.digest).is_file()
            return layer.upload.finish(), is_new
        return self.store.add_blob(layer.contents) if layer.contents else (layer.digest, False)

    # --- base model and files

    def from_model(self, text: str) -> list[NewLayer]:
        base_name = parse_name(text)
        if not base_name.is_valid:
            raise ApiError(400, INVALID_NAME)
        try:
            base = self.store.get(base_name)
        except ModelNotFound:
            if self.pull is None:
                raise ApiError(404, f"model '{text}' not found; upload its GGUF file and create it first") from None
            self.pull(str(base_name))
            base = self.store.get(base_name)
        for key in ("renderer", "parser"):
            self.config[key] = self.config[key] or base.config.get(key) or ""
        return [self.existing(layer.digest, layer.media_type, base.name) for layer in base.manifest.layers]

    def from_files(self, files: dict[str, str]) -> list[NewLayer]:
        kind = self.kind_of(files)
        if kind == "safetensors":
            return self.from_safetensors(files)
        if kind != "gguf":
            raise ApiError(400, UNKNOWN_TYPE)
        return [layer for digest in files.values() for layer in self.from_gguf(digest)]

    def kind_of(self, files: dict[str, str]) -> str:
        """Format of the files: from the first telling file name, otherwise from the first bytes."""
        for path, digest in files.items():
            for ending in ("safetensors", "gguf"):
                if path.endswith("." + ending):
                    return ending
            try:
                if self.begins_as_gguf(digest):
                    return "gguf"
            except (OSError, ValueError, ApiError):
                return ""
        return ""

    def begins_as_gguf(self, digest: str) -> bool:
        with open(self.blob(digest), "rb") as file:
            return file.read(4) == b"GGUF"

    def blob(self, digest: str) -> Path:
        path = self.store.blob_path(digest)
        if not path.is_file():
            raise ApiError(500, f"blob {digest} does not exist; upload it first with POST /api/blobs/{digest}")
        return path

    def from_gguf(self, digest: str) -> list[NewLayer]:
        self.report("parsing GGUF")
        if not self.begins_as_gguf(digest):
            raise ApiError(400, "supplied file was not in GGUF format")
        gguf = GGUFFile.open(self.blob(digest))
        layer = self.existing(digest, media_type_of(gguf.metadata), str(self.blob(digest)), gguf)
        return [layer, *detected_template(gguf)]

    def adapter(self, files: dict[str, str], layers: list[NewLayer]) -> NewLayer:
        """The adapter in the files, for the model in `layers`. Raises ApiError 400, as the original for every fault."""
        try:
            for digest in files.values():
                path = self.store.blob_path(digest)
                if not path.is_file():
                    raise ApiError(400, f"open {path}: no such file or directory")
            kind = self.kind_of(files)
            if kind == "gguf" and len(files) > 1:
                raise ApiError(400, ONE_ADAPTER)
            if kind == "gguf":
                return self.adapter_from_gguf(*files.items())
            if kind == "safetensors":
                return self.adapter_from_safetensors(files, layers)
        except VkbackendError as error:
            raise ApiError(400, str(error)) from None
        raise ApiError(400, UNKNOWN_TYPE)

    def adapter_from_gguf(self, file: tuple[str, str]) -> NewLayer:
        """file: its name and digest. A file that says that it is no adapter is one here, too, unless it is a whole
        model: loading it tells what is wrong with it.
        """
        name, digest = file
        layer = self.from_gguf(digest)[0]
        assert layer.gguf is not None, "read from a GGUF file"
        metadata = layer.gguf.metadata
        if layer.media_type != ADAPTER and f"{metadata.get('general.architecture', str, '')}.block_count" in metadata:
            raise ApiError(400, f"{name} is a model, not an adapter")
        return replace(layer, media_type=ADAPTER)

    def adapter_from_safetensors(self, files: dict[str, str], layers: list[NewLayer]) -> NewLayer:
        """Convert the files. layers: of the model that they change."""
        base = next((layer.gguf for layer in reversed(layers) if layer.media_type == MODEL and layer.gguf), None)
        if base is None:
            raise ApiError(400, "there is no model that the adapter could change; name it with 'from'")
        self.report("converting adapter")
        source = from_adapter_folder({path: self.blob(digest) for path, digest in files.items()}, base)
        upload = self.written(source, None)
        return NewLayer(ADAPTER, gguf=GGUFFile.open(upload.path), upload=upload)

    def from_safetensors(self, files: dict[str, str]) -> list[NewLayer]:
        """Convert the files, and quantize in the same pass if requested."""
        target = self.target()
        self.report("converting model")
        source = from_folder({path: self.blob(digest) for path, digest in files.items()})
        upload = self.written(source, None if target == source.level else target)
        gguf = GGUFFile.open(upload.path)
        return [NewLayer(MODEL, gguf=gguf, upload=upload), *detected_template(gguf)]

    def written(self, source: Source, target: str | None) -> Upload:
        """A GGUF file of `source`, quantized to `target` if given, that is not a blob yet.

        Progress is reported only if quantizing, as in the original.
        """
        upload = self.uploads.enter_context(self.store.upload())
        status = f"quantizing {source.level} model to {self.wanted_type()}"

        def progress(done: int, total: int) -> None:
            if target:
                self.report(status, digest="0" * 19, total=total, completed=done)

        write_model(source, target, upload, progress, self.is_cancelled)
        if target:
            self.report("verifying conversion")
        upload.sync()
        return upload

    def existing(self, digest: str, media_type: str, source: str, gguf: GGUFFile | None = None) -> NewLayer:
        if gguf is None and media_type in _WEIGHT_TYPES:
            gguf = GGUFFile.open(self.blob(digest))
        return NewLayer(media_type, digest, source, gguf=gguf)

    # --- texts

    def with_texts(self, layers: list[NewLayer]) -> list[NewLayer]:
        request = self.request
        if request.template:
            try:
                Template.parse(request.template)
            except TemplateError as error:
                raise ApiError(400, f"template error: {error}") from None
            layers = [*without(layers, TEMPLATE), NewLayer(TEMPLATE, contents=request.template.encode())]
        if request.system:
            layers = [*without(layers, SYSTEM), NewLayer(SYSTEM, contents=request.system.encode())]
        layers = layers + [NewLayer(LICENSE, contents=text.encode()) for text in licenses(request.license)]
        parameters = self.parameters_over(layers)
        if parameters:
            layers = [*without(layers, PARAMS), json_layer(PARAMS, parameters)]
        if request.messages:
            messages = [Message(role=message.role, content=message.content) for message in request.messages]
            layers = [*without(layers, MESSAGES), json_layer(MESSAGES, messages)]
        for layer in layers:
            check_size(layer)
        return layers

    def parameters_over(self, layers: list[NewLayer]) -> dict[str, Any]:
        """Parameters of the base, overridden by those of the request."""
        parameters = {}
        for layer in layers:
            if layer.media_type == PARAMS:
                parameters |= json.loads(layer.contents) if layer.contents else self.store.read_json(layer.digest)
        return parameters | (self.request.parameters or {})

    # --- quantization

    def wanted_type(self) -> str:
        """`quantize` of the request, in upper case as status texts show it."""
        return (self.request.quantize or self.request.quantization).upper()

    def target(self) -> str | None:
        """The file type that `quantize` asks for."""
        wanted = self.wanted_type()
        try:
            return quantize_target(wanted) if wanted else None
        except ValueError as error:
            raise ApiError(500, str(error)) from None

    def quantized(self, layers: list[NewLayer]) -> list[NewLayer]:
        """The layers, with weights quantized as requested."""
        target = self.target()
        if target is None:
            return layers
        return [self.quantized_weights(layer, layer.gguf, target) if layer.gguf else layer for layer in layers]

    def quantized_weights(self, layer: NewLayer, gguf: GGUFFile, target: str) -> NewLayer:
        if layer.media_type != MODEL or layer.upload is not None:  # an upload is quantized already
            return layer
        source = from_gguf(gguf)
        if source.level == target:
            return layer
        if source.level not in CAN_BE_QUANTIZED:
            raise ApiError(500, "quantization is only supported for F16 and F32 models")
        upload = self.written(source, target)
        return replace(layer, digest="", source="", upload=upload, gguf=GGUFFile.open(upload.path))

    def config_document(self, new_layers: list[NewLayer], layers: list[Layer]) -> dict[str, Any]:
        weights = [layer.gguf for layer in new_layers if layer.gguf]
        families = [gguf.metadata.get("general.architecture", str, "unknown") for gguf in weights]
        document = {
            "model_format": "gguf" if weights else "",
            "model_family": families[0] if families else "",
            "model_families": families or None,
            "model_type": human_number(parameter_count(weights[0])) if weights else "",
            "file_type": quantization_level(weights[0].metadata) if weights else "",
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
        if self.request.info and isinstance(self.request.info.get("capabilities"), list):
            document["capabilities"] = [name for name in self.request.info["capabilities"] if isinstance(name, str)]
        return document | {key: text for key, text in self.config.items() if text}
