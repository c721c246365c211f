"""Makes a model from uploaded GGUF or safetensors files or from another model: /api/create without the HTTP around
it.

In: a CreateRequest. Out: a manifest in the store, and texts that tell how far it is, in the order in which Ollama
tells them. Layers that the request names (template, system, parameters, messages) take the place of the base's;
licenses are added to it.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from vkbackend.gguf.reader import GGUFFile

from ..errors import ApiError
from ..go import encode
from ..go.human import human_bytes, human_number
from ..prompts import jinja
from ..prompts.gotemplate import Template, TemplateError
from ..wire.native import CreateRequest, Message
from .convert import Source, from_folder, from_gguf, write_model
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
    largest_bytes,
)
from .names import ModelName, parse
from .quantization import CAN_BE_QUANTIZED, quantization_level, quantize_target
from .store import Store, Upload

_WEIGHT_TYPES = (MODEL, ADAPTER, PROJECTOR)
MAX_PATH = 4096
INVALID_NAME, UNKNOWN_TYPE = "invalid model name", "unknown type"
NO_ADAPTERS = "adapters are not supported yet; merge the adapter into the model before converting it to GGUF"


@dataclass
class Piece:
    """A layer to be: one whose blob is there (`digest`, perhaps a GGUF file), text that becomes one (`contents`), or
    a GGUF file that was written for it and waits beside the blobs (`upload`).
    """

    media_type: str
    digest: str = ""
    source: str = ""
    contents: bytes = b""
    status: str = ""  # what to tell about it; by default whether its blob was there before
    gguf: GGUFFile | None = None
    upload: Upload | None = None


def check(request: CreateRequest) -> ModelName:
    """What can be said before any work is done: file names are relative, the name is one. -> the name. Raises
    ApiError 400.
    """
    for path in request.files or {}:
        if len(path) > MAX_PATH:
            raise ApiError(400, f"file path has {len(path)} characters; give names of at most {MAX_PATH}")
        # A path in Go's io/fs sense: no empty, "." or ".." element, hence relative and below its folder.
        if path != "." and any(part in ("", ".", "..") for part in path.split("/")):
            raise ApiError(400, "file path must be relative")
    name = parse(request.model or request.name)
    if not name.is_valid:
        raise ApiError(400, INVALID_NAME)
    return name


def create(
    store: Store, request: CreateRequest, name: ModelName, report, pull: Callable[[str], None] | None = None
) -> None:
    """`report(status)` is called for each step, while weights are written also with `digest`, `total` and
    `completed`. `pull(name)` brings a base that is not in the store; without it that is an error. Raises ApiError, a
    VkbackendError that the caller answers with status 500, and what `pull` raises.

    Reading the base and writing weights take their time and are done first; only then the store is locked, changed,
    and found to hold all layers still.
    """
    with ExitStack() as uploads:
        creation = _Creation(store, request, report, uploads, pull)
        pieces = creation.prepare(name)
        with store.lock:
            creation.write(store.existing_name(name), pieces)
    report("success")


class _Creation:
    def __init__(self, store, request, report, uploads, pull):
        self.store, self.request, self.report, self.uploads, self.pull = store, request, report, uploads, pull
        self.config = {"renderer": request.renderer, "parser": request.parser}

    def prepare(self, name) -> list[Piece]:
        request = self.request
        if request.remote_host:
            raise ApiError(
                400,
                f"{name.shortest} would run on {request.remote_host}: remote models are not supported yet; leave "
                f"remote_host out",
            )
        if request.from_:
            pieces = self.from_model(request.from_)
        elif request.files is not None:
            pieces = self.from_files(request.files)
        else:
            raise ApiError(400, "neither 'from' or 'files' was specified")
        if request.adapters is not None:
            raise ApiError(400, NO_ADAPTERS if self.kind_of(request.adapters) else UNKNOWN_TYPE)
        return self.with_texts(self.quantized(pieces))

    def write(self, name, pieces):
        layers, statuses = [], []
        for piece in pieces:
            digest, is_new = self.digest_of(piece)
            layers.append(Layer(piece.media_type, digest, self.blob(digest).stat().st_size, piece.source))
            statuses.append(piece.status or f"{'creating new' if is_new else 'using existing'} layer {digest}")
        document = encode.dumps(self.config_document(pieces, layers)).encode()
        config = Layer(CONFIG_TYPE, self.store.add_blob(document)[0], len(document))
        for status in [*statuses, "writing manifest"]:
            self.report(status)
        self.store.write_manifest(name, config, layers)
        self.check_blobs(pieces, layers, document)

    def check_blobs(self, pieces, layers, config_document):
        """An Ollama beside us that starts at this moment deletes blobs that no manifest names yet: what we still
        have comes back.
        """
        if not all(self.store.blob_path(layer.digest).is_file() for layer in layers):
            for piece in pieces:
                self.digest_of(piece)
        self.store.add_blob(config_document)
        for layer in layers:
            self.blob(layer.digest)

    def digest_of(self, piece) -> tuple[str, bool]:
        """-> (digest of the piece's blob, whether it is new)."""
        if piece.upload is not None:
            is_new = not self.store.blob_path(piece.upload.digest).is_file()
            return piece.upload.finish(), is_new
        return self.store.add_blob(piece.contents) if piece.contents else (piece.digest, False)

    # --- where it comes from

    def from_model(self, text) -> list[Piece]:
        base_name = parse(text)
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

    def from_files(self, files) -> list[Piece]:
        kind = self.kind_of(files)
        if kind == "safetensors":
            return self.from_safetensors(files)
        if kind != "gguf":
            raise ApiError(400, UNKNOWN_TYPE)
        pieces = []
        for digest in files.values():
            pieces += self.from_gguf(digest)
        return pieces

    def kind_of(self, files) -> str:
        """By the first file name that tells, else by what a file begins with."""
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

    def begins_as_gguf(self, digest) -> bool:
        with open(self.blob(digest), "rb") as file:
            return file.read(4) == b"GGUF"

    def blob(self, digest):
        path = self.store.blob_path(digest)
        if not path.is_file():
            raise ApiError(500, f"blob {digest} is not here; upload it first with POST /api/blobs/{digest}")
        return path

    def from_gguf(self, digest) -> list[Piece]:
        self.report("parsing GGUF")
        if not self.begins_as_gguf(digest):
            raise ApiError(400, "supplied file was not in GGUF format")
        gguf = GGUFFile.open(self.blob(digest))
        media_type = _media_type(gguf.metadata)
        if media_type == ADAPTER:
            raise ApiError(400, NO_ADAPTERS)
        return [self.existing(digest, media_type, str(self.blob(digest)), gguf), *_detected_template(gguf)]

    def from_safetensors(self, files) -> list[Piece]:
        """Converted and, where that is asked for, quantized in one go."""
        target = self.target()
        self.report("converting model")
        source = from_folder({path: self.blob(digest) for path, digest in files.items()})
        upload = self.written(source, None if target == source.level else target)
        gguf = GGUFFile.open(upload.path)
        return [Piece(MODEL, gguf=gguf, upload=upload), *_detected_template(gguf)]

    def written(self, source: Source, target: str | None) -> Upload:
        """A GGUF file of what `source` holds, as `target` where that is another type, not yet a blob. Only quantizing
        tells how far it is, as in the original."""
        upload = self.uploads.enter_context(self.store.upload())
        status = f"quantizing {source.level} model to {self.wanted_type()}"

        def tell(done: int, total: int) -> None:
            if target:
                self.report(status, digest="0" * 19, total=total, completed=done)

        write_model(source, target, upload, tell, getattr(self.report, "cancelled", None))
        if target:
            self.report("verifying conversion")
        upload.sync()
        return upload

    # --- layers

    def existing(self, digest, media_type, source, gguf=None) -> Piece:
        if gguf is None and media_type in _WEIGHT_TYPES:
            gguf = GGUFFile.open(self.blob(digest))
        return Piece(media_type, digest, source, gguf=gguf)

    def with_texts(self, pieces) -> list[Piece]:
        request = self.request
        if request.template:
            try:
                Template.parse(request.template)
            except TemplateError as error:
                raise ApiError(400, f"template error: {error}") from None
            pieces = [*_without(pieces, TEMPLATE), Piece(TEMPLATE, contents=request.template.encode())]
        if request.system:
            pieces = [*_without(pieces, SYSTEM), Piece(SYSTEM, contents=request.system.encode())]
        pieces = pieces + [Piece(LICENSE, contents=text.encode()) for text in _licenses(request.license)]
        parameters = self.parameters_over(pieces)
        if parameters:
            pieces = [*_without(pieces, PARAMS), _json_piece(PARAMS, parameters)]
        if request.messages:
            messages = [Message(role=message.role, content=message.content) for message in request.messages]
            pieces = [*_without(pieces, MESSAGES), _json_piece(MESSAGES, messages)]
        for piece in pieces:
            _check_size(piece)
        return pieces

    def parameters_over(self, pieces) -> dict:
        """The request's parameters over those of the base."""
        parameters = {}
        for piece in pieces:
            if piece.media_type == PARAMS:
                parameters |= json.loads(piece.contents) if piece.contents else self.store.read_json(piece.digest)
        return parameters | (self.request.parameters or {})

    # --- quantization

    def wanted_type(self) -> str:
        """`quantize` as it is told: in capital letters."""
        return (self.request.quantize or self.request.quantization).upper()

    def target(self) -> str | None:
        """The file type that `quantize` asks for."""
        wanted = self.wanted_type()
        try:
            return quantize_target(wanted) if wanted else None
        except ValueError as error:
            raise ApiError(500, str(error)) from None

    def quantized(self, pieces) -> list[Piece]:
        """The pieces with their weights as the request wants them."""
        target = self.target()
        return [
            self.quantized_weights(piece, target)
            if target and piece.gguf is not None and piece.media_type == MODEL and piece.upload is None
            else piece
            for piece in pieces
        ]

    def quantized_weights(self, piece, target) -> Piece:
        source = from_gguf(piece.gguf)
        if source.level == target:
            return piece
        if source.level not in CAN_BE_QUANTIZED:
            raise ApiError(500, "quantization is only supported for F16 and F32 models")
        upload = self.written(source, target)
        return replace(piece, digest="", source="", upload=upload, gguf=GGUFFile.open(upload.path))

    def config_document(self, pieces, layers) -> dict:
        weights = [piece.gguf for piece in pieces if piece.gguf]
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


def _check_size(piece: Piece) -> None:
    """A text that could not be read back is not written. Raises ApiError 400."""
    largest = largest_bytes(piece.media_type)
    if len(piece.contents) > largest:
        kind = piece.media_type.rpartition(".")[2]
        size = human_bytes(len(piece.contents))
        raise ApiError(400, f"{kind} has {size}; a model's may have {largest >> 20} MiB at most")


def _detected_template(gguf) -> list[Piece]:
    """A built-in template, and its parameters, where it stands for the file's own."""
    matched = jinja.builtin_for(gguf)
    if matched is None:
        return []
    piece = Piece(TEMPLATE, contents=matched.text.encode(), status=f"using autodetected template {matched.name}")
    return [piece, _json_piece(PARAMS, matched.parameters)] if matched.parameters else [piece]


def _media_type(metadata) -> str:
    kind, architecture = metadata.get("general.type", str, ""), metadata.get("general.architecture", str, "unknown")
    if kind == "adapter":
        return ADAPTER
    is_vision_only = not metadata.get(f"{architecture}.block_count", None, 0) and metadata.get(
        f"{architecture}.vision.block_count", None, 0
    )
    return PROJECTOR if kind == "projector" or is_vision_only else MODEL


def _json_piece(media_type, value) -> Piece:
    return Piece(media_type, contents=(encode.dumps(value) + "\n").encode())


def _without(pieces, media_type) -> list[Piece]:
    return [piece for piece in pieces if piece.media_type != media_type]


def _licenses(value) -> list[str]:
    """One text or a list of them."""
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(500, "license must be a text or a list of texts")
    return [text for text in texts if text]
