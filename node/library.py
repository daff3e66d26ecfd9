"""The models of this node: folders that were offered here, and what the store fetched; served to peers from both.

Implements `inference.placement.holding.holdings.Weights`. The paths of offered folders are kept on disk, so that a restarted node
serves them again; a folder that has gone or changed meanwhile is passed over, because its digest no longer fits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from inference.model.config_json import parse_config
from inference.model.folder import ModelFolder, open_model_folder
from inference.model.text import Text
from inference.model.tiny import MODEL_DIR
from mesh.rpc import accepting
from mesh.state.files import Offload, free_disk_bytes
from mesh.state.serving import WeightServer
from mesh.state.store import WeightStore
from mesh.state.transfer import WeightFetcher
from protocols import limits, streams
from protocols.errors import Dishonest, LocalFault, NotFound, UserError
from protocols.ids import ModelDigest, NetworkId, PeerId, shortened
from protocols.seams import Disk, Network, TensorFile
from protocols.weights import WEIGHTS_CODEC

FOLDERS_FILE: Final = "folders.json"
WARM_PIECE_BYTES: Final = 8 * limits.MIB
EMBEDDED: Final = "weft-tiny"
TOKENIZER: Final = "tokenizer.json"
Progress = Callable[[int, int], None]

log = structlog.get_logger("node.library")


class Library:
    """Needs `load` before it knows the folders of an earlier run."""

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        disk: Disk,
        root: Path,
        offload: Offload = trio.to_thread.run_sync,
        free_bytes: Callable[[str], int | None] = free_disk_bytes,
    ) -> None:
        self._disk = disk
        self._offload = offload
        self._root = str(root)
        self._free_bytes = partial(free_bytes, self._root)
        self._store = WeightStore(self._root)
        self._fetcher = WeightFetcher(network, network_id, self._store, offload)
        self._folders: dict[ModelDigest, ModelFolder] = {}
        self._texts: dict[ModelDigest, Text] = {}
        self._small: dict[ModelDigest, dict[str, bytes]] = {}  # read and checked once
        server = WeightServer(lambda: (*self._folders.values(), self._store), offload)
        network.handle(streams.WEIGHTS, accepting(streams.WEIGHTS, WEIGHTS_CODEC, network_id, server.serve))

    # Folders ---------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Open the folders that were offered before."""
        for path in _decode_paths(self._disk.read(FOLDERS_FILE)):
            try:
                await self.add(path, _unheard)
            except UserError as error:
                log.warning("an offered folder is left out", path=path, reason=str(error))

    async def add(self, path_or_name: str, on_progress: Progress) -> ModelFolder:
        """Check and hash a folder, and serve it from now on. Raises `UserError`."""
        path = str(MODEL_DIR) if path_or_name == EMBEDDED else path_or_name
        if not path.startswith("/"):
            raise UserError(f"{path!r} is no model here: give the path of a model folder, or {EMBEDDED}.")
        folder = await open_model_folder(path, self._disk, self._offload, on_progress)
        if folder.digest not in self._folders and len(self._folders) >= limits.MODELS_MAX:
            raise UserError(f"{limits.MODELS_MAX} models are offered here: no more fit.")
        self._folders[folder.digest] = folder
        paths = sorted({each.path for each in self._folders.values()})
        self._disk.write(FOLDERS_FILE, msgspec.json.encode(paths))
        return folder

    async def find(self, name: str, on_progress: Progress) -> ModelFolder:
        """A folder by its path, or one that was offered here by its name or the beginning of its digest."""
        if name.startswith("/") or name == EMBEDDED:
            path = str(MODEL_DIR) if name == EMBEDDED else name
            return await open_model_folder(path, self._disk, self._offload, on_progress)
        for digest, folder in self._folders.items():
            if folder.name == name or (len(name) >= 6 and digest.startswith(name)):
                return folder
        raise NotFound(f"no model {name!r} was offered here: give the path of a model folder, or {EMBEDDED}.")

    def has_folder(self, model: ModelDigest) -> bool:
        return model in self._folders

    def context_of(self, model: ModelDigest) -> int | None:
        """How many tokens a prompt and its answer may have; None if the model's files are not here."""
        if model in self._folders:
            return self._folders[model].config.context
        config = self._small.get(model, {}).get("config.json")
        return parse_config(config).context if config is not None else None

    # Weights ---------------------------------------------------------------------------------------------------------

    async def config_of(self, model: ModelDigest, from_peers: tuple[PeerId, ...]) -> bytes:
        files = await self._small_files(model, from_peers)
        if "config.json" not in files:
            raise Dishonest(f"model {shortened(model)} has no config.json")
        return files["config.json"]

    async def ensure(
        self,
        model: ModelDigest,
        tensor_names: tuple[str, ...],
        from_peers: tuple[PeerId, ...],
        on_progress: Progress,
    ) -> tuple[TensorFile, ...]:
        if model in self._folders:
            return self._folders[model].tensor_files(tensor_names)
        await self._fetcher.fetch_tensors(model, tensor_names, from_peers, on_progress)
        return await self._offload(lambda: self._store.tensor_files(model, tensor_names))

    async def tokenizer_of(self, model: ModelDigest) -> str:
        if model in self._folders:
            folder = self._folders[model]
            return str(Path(folder.path) / TOKENIZER) if TOKENIZER in folder.files else ""
        return await self._offload(lambda: self._store.small_path(model, TOKENIZER))

    async def free_disk_bytes(self) -> int | None:
        return await self._offload(self._free_bytes)

    async def warm(self, model: ModelDigest, tensor_names: tuple[str, ...], on_progress: Progress) -> None:
        """In pieces, so that nothing of it stays in this process: the page cache is what has to have it."""
        source = self._folders.get(model)
        manifest = source.stated if source else await self._offload(lambda: self._store.stated(model))
        if manifest is None:
            raise LocalFault(f"the manifest of model {shortened(model)} is not in the store")
        wanted = {entry.sha256: entry for entry in manifest.tensors if entry.name in set(tensor_names)}
        blobs = [blob for sha256 in wanted if (blob := (source or self._store).blob(model, sha256))]
        done_bytes, total_bytes = 0, sum(blob.size_bytes for blob in blobs)
        for blob in blobs:
            for offset in range(0, blob.size_bytes, WARM_PIECE_BYTES):
                piece = await self._offload(partial(blob.read, offset, WARM_PIECE_BYTES))
                done_bytes += len(piece)
                on_progress(done_bytes, total_bytes)

    # Words -----------------------------------------------------------------------------------------------------------

    async def text_of(self, model: ModelDigest, holders: tuple[PeerId, ...]) -> Text:
        """Its tokenizer and template, fetched from a holder if need be."""
        if model not in self._texts:
            files = await self._small_files(model, holders)
            if len(self._texts) >= limits.MODELS_MAX:
                self._texts.clear()
            self._texts[model] = await self._offload(lambda: Text(files))
        return self._texts[model]

    async def _small_files(self, model: ModelDigest, holders: tuple[PeerId, ...]) -> dict[str, bytes]:
        if model in self._folders:
            return dict(self._folders[model].files)
        if model not in self._small:
            await self._fetcher.fetch_description(model, holders)
            files = await self._offload(lambda: self._store.small_files(model))
            if len(self._small) >= limits.MODELS_MAX:
                self._small.clear()
            self._small[model] = files
        return self._small[model]


def _decode_paths(data: bytes | None) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(data or b"[]", type=tuple[str, ...])
    except msgspec.DecodeError as error:
        raise LocalFault(
            f"{FOLDERS_FILE} is damaged ({error}): remove it and offer the folders again"
        ) from error


def _unheard(_done_bytes: int, _total_bytes: int) -> None:
    """Nobody waits for what is read again at the start."""
