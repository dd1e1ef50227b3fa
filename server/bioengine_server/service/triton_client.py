"""`triton-client`: the service that clients call.

    execute: arguments -> checked -> admitted -> Triton -> {"result": ..., "__info__": ...}

For stored models, errors are returned as data, `{"success": False, "error": str, "code": str}`; refused arguments raise an
exception that names the argument.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bioengine_contract import message
from bioengine_contract.errors import BadRequest, RequestError
from bioengine_contract.ids import RUNNER, RUNNER_VERSION, BadModelId
from bioengine_contract.nearest import did_you_mean
from bioengine_contract.package_errors import ModelNotFound
from bioengine_contract.request import REQUEST_KEYS, RunRequest
from bioengine_contract.run import failure
from bioengine_contract.version import VERSION

from bioengine_server.access.caller import Caller
from bioengine_server.access.errors import TooLarge
from bioengine_server.access.rules import Access
from bioengine_server.aside import aside
from bioengine_server.dispatch.dispatcher import Call, Dispatcher
from bioengine_server.dispatch.errors import ModelNotFetched, RefusedArgument
from bioengine_server.dispatch.probe import ReservedModel, names_probe
from bioengine_server.dispatch.progress import Progress
from bioengine_server.service.infer_options import (
    checked_flag,
    checked_model_name,
    checked_serialization,
    checked_version,
    infer_options,
)
from bioengine_server.service.refused_calls import telling
from bioengine_server.service.tensors import checked_outputs, from_triton, to_triton
from bioengine_server.triton.api import InferResult, TritonApi
from bioengine_server.triton.errors import TritonError
from bioengine_server.triton.infer_options import InferOptions
from bioengine_server.workers.worker import Body

logger = logging.getLogger(__name__)

SERVICE_ID = "triton-client"

_NOT_FOR_CLIENTS = ("self", "server_url", "context", "unknown")


class TritonClient:
    """The service, which calls a dispatcher and a Triton. It is the same in the server process and in a separate process."""

    def __init__(self, dispatcher: Dispatcher, triton: TritonApi, access: Access, public_url: str) -> None:
        """
        Args:
            dispatcher: runs stored models.
            triton: runs the admin's own Triton models.
            access: the access rules.
            public_url: the Hypha server's URL, which `get_config` returns.
        """
        self.dispatcher = dispatcher
        self.triton = triton
        self.access = access
        self._public_url = public_url
        self._is_connected: Callable[[str, str], bool] | None = None
        self._is_ready: Callable[[], bool] | None = None
        access.refusals.listen(dispatcher.jobs.refused)

    def watch_clients(self, is_connected: Callable[[str, str], bool]) -> None:
        """Do not run requests of clients that have disconnected. `is_connected(workspace, client)` asks Hypha."""
        self._is_connected = is_connected

    def watch_readiness(self, is_ready: Callable[[], bool]) -> None:
        """Let `get_status` report whether the server is ready, as the health route does."""
        self._is_ready = is_ready

    def stop(self) -> None:
        """Answer all running and waiting requests with an error, because the server is being stopped."""
        self.dispatcher.queue.close()

    def definition(self) -> dict[str, Any]:
        """The service definition that is registered with Hypha."""
        return {
            "id": SERVICE_ID,
            "name": "BioEngine",
            "type": "triton-client",
            "description": "Runs bioimage.io models by id, and other models of this server's Triton.",
            "config": {"visibility": "public", "require_context": True},
            "execute": telling(self.execute, self.access.refusals),
            "get_config": self.get_config,
            "get_status": self.get_status,
            "cancel": self.cancel,
        }

    async def execute(
        self,
        /,
        inputs: Any = None,
        model_name: Any = None,
        serialization: Any = "triton",
        select_outputs: Any = None,
        decode_json: bool = False,
        decode_bytes: bool = False,
        model_version: Any = "",
        request_id: Any = "",
        sequence_id: Any = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
        priority: Any = 0,
        timeout: Any = None,
        compression_algorithm: Any = None,
        cache_config: bool = True,
        verbose: bool = False,
        progress: Any = None,
        server_url: Any = None,
        context: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> dict[str, Any]:
        """Run a model.

        Args:
            inputs: for `bioengine-model-runner` (with serialization "imjoy"): a list with one dict, `{"model_id": str,
                "inputs": [array, ...], "outputs": [str, ...], "return_rdf": any, "weight_format": str, "axes": str,
                "tile": int}`; for other models of Triton: one array, str or dict (as JSON) for each of its inputs.
            model_name: the Triton model.
            serialization: "imjoy" or "triton"; for `bioengine-model-runner` "imjoy" alone.
            select_outputs: names of the outputs wanted, None for all.
            decode_json: decode BYTES outputs as JSON.
            decode_bytes: decode BYTES outputs as text.
            model_version, request_id, sequence_id, sequence_start, sequence_end, priority, timeout: of Triton's inference
                request.
            compression_algorithm: accepted but ignored; it would only apply between this server and its Triton.
            cache_config: remember the model's configuration between calls.
            verbose: log the call.
            progress: a function, called with `{"state": str, "task_id": str, ...}` while the call lasts: "queued" with `position`
                (1 is next, 0 need not wait) and `estimate` (seconds, where known), "downloading" with `file`, `bytes` and
                `total`, "converting" (its weights, once), "loading" (where it is not loaded), "running" with `tile` and `tiles`
                (where there are several). Errors of its own are ignored.
            server_url: refused; this service speaks to its own Triton only.
            context: given by Hypha.

        Returns the outputs by name and `"__info__"`, Triton's response info. For `bioengine-model-runner` that is
        `"result"`: `{"task_id": str, "outputs": [array, ...], "execution_time": seconds, "success": True}`, with
        `"warnings": [str, ...]` if there is a problem with the values, or `{"success": False, "error": str, "code": str}`.

        Raises NoAccess, TooManyRequests; RefusedArgument; TypeError for an input of a wrong dtype; for models other than the
        runner TritonError, TritonUnavailable, Busy, CallerGone, Stopping, TooLarge.
        """
        caller = self._caller(context)
        _refuse(server_url, unknown, self.execute)
        checked_serialization(serialization), checked_model_name(model_name)
        json_wanted, text_wanted = checked_flag("decode_json", decode_json), checked_flag("decode_bytes", decode_bytes)
        use_cache, verbose = checked_flag("cache_config", cache_config), checked_flag("verbose", verbose)
        if model_name == RUNNER and serialization != "imjoy":
            raise RefusedArgument("serialization", f"{RUNNER!r} accepts 'imjoy' only: use serialization=\"imjoy\".")
        if names_probe(model_name):
            raise ReservedModel("model_name")
        options = infer_options(
            model_version=model_version,
            request_id=request_id,
            sequence_id=sequence_id,
            sequence_start=sequence_start,
            sequence_end=sequence_end,
            priority=priority,
            timeout=timeout,
            compression_algorithm=compression_algorithm,
        )
        logger.log(logging.INFO if verbose else logging.DEBUG, "%s runs %.80r", caller, model_name)
        async with self.access.request(caller), Progress(progress) as told:
            call = Call(caller, told)
            if model_name == RUNNER:
                return await self._run_stored_model(inputs, call, _for_runner(options))
            config = await self._triton_config(model_name, options.model_version, use_cache=use_cache)
            outputs = checked_outputs(select_outputs, config)
            self.access.check_size(inputs, caller)
            tensors = await aside(message.size(inputs), to_triton, inputs, config, serialization)

            async def infer() -> InferResult:
                return await self.triton.infer(model_name, tensors, outputs, options)

            result = await self.dispatcher.other_model(model_name, call, infer, inputs)
            size = message.size(list(result.outputs.values()))
            outputs_by_name = await aside(size, from_triton, result.outputs, serialization, json_wanted, text_wanted)
            return {**outputs_by_name, "__info__": result.info}

    async def get_config(
        self,
        /,
        model_name: Any = None,
        model_version: Any = "",
        verbose: bool = False,
        server_url: Any = None,
        context: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> dict[str, Any]:
        """Triton's configuration of a model, loaded or not, with `server_url` and `model_name`.

        Raises NoAccess, TooManyRequests, Busy, RefusedArgument, TritonError (if the model does not exist), TritonUnavailable.
        """
        caller = self._caller(context)
        _refuse(server_url, unknown, self.get_config)
        checked_model_name(model_name)
        async with self.access.request(caller):
            config = await self._config(model_name, checked_version(model_version), caller)
            return {**config, "server_url": f"{self._public_url}/triton", "model_name": model_name}

    async def get_status(self, /, *, context: dict[str, Any] | None = None, **unknown: Any) -> dict[str, Any]:
        """The status of this server.

        Returns `version`: the project's version; `ready`: True or False, or None if this process does not know; `models`: a dict
        for each loaded model, with `name`, `weight_format`, `device` and `idle` (seconds since its last use); and `requests`:
        how many are `waiting` and `running`.

        Raises NoAccess, TooManyRequests, RefusedArgument.
        """
        caller = self._caller(context)
        _refuse(None, unknown, self.get_status)
        async with self.access.request(caller):
            ready = None if self._is_ready is None else self._is_ready()
            return {"version": VERSION, "ready": ready, **self.dispatcher.status()}

    async def cancel(self, task_id: Any = None, /, *, context: dict[str, Any] | None = None, **unknown: Any) -> dict[str, Any]:
        """End a request of the caller's own that waits or runs; whoever waits for its result gets the error `cancelled`.

        Args:
            task_id: of the request, as its progress function was told; also by the keyword.
            context: given by Hypha.

        Returns `{"cancelled": task_id}`. Raises NoAccess, NoSuchJob, RefusedArgument.
        """
        caller = self._caller(context)
        task_id = unknown.pop("task_id", task_id)
        _refuse(None, unknown, self.cancel)
        if not isinstance(task_id, str) or not task_id:
            raise RefusedArgument("task_id", "expected the task_id that the progress function of the request was told.")
        self.dispatcher.jobs.cancel(task_id, "its caller", caller)
        return {"cancelled": task_id}

    async def run(self, request: RunRequest, caller: Caller) -> dict[str, Any]:
        """The result of a request for a stored model that arrived in Triton's own protocol; errors are returned as data.

        Raises NoAccess, TooManyRequests, ReservedModel.
        """
        async with self.access.request(caller):
            with contextlib.suppress(RequestError):  # the answer contains the error
                if request.inputs is not None:
                    self.dispatcher.check_stored(request.model_id, "model_id")
            return await self.dispatcher.respond(request, Call(caller, Progress(None)))

    async def forward(self, model_name: str, version: str, body: Body, headers: Mapping[str, str], caller: Caller) -> Any:
        """Triton's response to an inference request in its own protocol; the caller has to read and release it.

        Args:
            model_name: the id of a bioimage.io model, or the name of another Triton model.
            version: the version of the Triton model; empty for the newest.
            body, headers: of the HTTP request.
            caller: the client.

        Raises NoAccess, TooManyRequests, RequestError, ReservedModel, Busy, TritonError, TritonUnavailable.
        """
        logger.debug("%s infers with %s", caller, model_name)
        if names_probe(model_name):
            raise ReservedModel("model_name")
        async with self.access.request(caller):
            call = Call(caller, Progress(None))
            try:
                self.dispatcher.check_stored(model_name)
            except (BadModelId, ModelNotFound):
                if await self.triton.is_ready(model_name):
                    suffix = f"/versions/{version}" if version else ""
                    path = f"/v2/models/{model_name}{suffix}/infer"
                    return await self.dispatcher.other_model(
                        model_name, call, lambda: self.triton.open("POST", path, body(), dict(headers))
                    )
            return await self.dispatcher.forward(model_name, call, version, body, headers)

    def _caller(self, context: dict[str, Any] | None) -> Caller:
        """The caller. Whether it is still connected is known only for clients of the Hypha in this process.

        Raises NoAccess.
        """
        caller, is_connected = Caller.from_context(context), self._is_connected
        self.access.check(caller)
        if is_connected is None or not is_connected(caller.workspace, caller.client):
            return caller
        return replace(caller, connected=lambda: is_connected(caller.workspace, caller.client))

    async def _run_stored_model(self, inputs: Any, call: Call, options: InferOptions) -> dict[str, Any]:
        """Run a request for the model runner; errors are returned as data."""
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise RefusedArgument("inputs", 'expected a list with one dict, [{"model_id": "affable-shark", "inputs": [image]}].')
        try:
            request = RunRequest.from_client(inputs[0])
        except BadRequest as error:
            raise RefusedArgument("inputs", str(error)) from error
        info = runner_info(options.request_id)
        try:
            self.access.check_size(request.inputs, call.caller)
        except TooLarge as error:
            self.access.refusals.tell(error, call.caller, request.model_id)
            return {"result": failure(error, ""), "__info__": info}
        return {"result": await self.dispatcher.respond(request, call), "__info__": info}

    async def _config(self, model_name: Any, model_version: str, caller: Caller) -> dict[str, Any]:
        """Triton's configuration of a model: a bioimage.io model, stored or not, or another Triton model."""
        if not isinstance(model_name, str) or model_name == RUNNER:
            return await self._triton_config(model_name, model_version, use_cache=False)
        try:
            return self.dispatcher.stored_config(model_name)
        except (BadModelId, ModelNotFound) as error:
            missing = error
        except RequestError as error:
            raise RefusedArgument("model_name", str(error)) from error
        try:
            return await self._triton_config(model_name, model_version, use_cache=False)
        except RefusedArgument:
            if not isinstance(missing, ModelNotFound):
                raise
        try:
            return await self.dispatcher.config_in_collection(missing, caller)
        except ModelNotFetched as error:
            raise RefusedArgument("model_name", str(error)) from error

    async def _triton_config(self, model_name: Any, model_version: str, use_cache: bool) -> dict[str, Any]:
        if model_name is None:
            raise RefusedArgument("model_name", f"it is missing. For bioimage.io models it is {RUNNER!r}.")
        try:
            return await self.triton.model_config(model_name, model_version, from_cache=use_cache)
        except TritonError as error:
            version = f" with the version {model_version}" if model_version else ""
            raise RefusedArgument(
                "model_name",
                f"this server's Triton has no model {model_name!r}{version}. To run a bioimage.io model, use {RUNNER!r} "
                "and give the model's id in the inputs.",
            ) from error


def runner_info(request_id: str = "") -> dict[str, Any]:
    """The info that Triton would return for a response of its model `bioengine-model-runner`."""
    outputs = [{"name": "result", "datatype": "BYTES", "shape": [1]}]
    return {
        "model_name": RUNNER,
        "model_version": RUNNER_VERSION,
        "outputs": outputs,
        **({"id": request_id} if request_id else {}),
    }


def _for_runner(options: InferOptions) -> InferOptions:
    """Check the options for a stored model. Only the client's own name for the request is used; the others have no meaning there.

    Raises RefusedArgument.
    """
    if options.model_version not in ("", RUNNER_VERSION):
        raise RefusedArgument(
            "model_version",
            f"{RUNNER!r} has only the version '1'. Put a bioimage.io model's version into its id, as in 'affable-shark/1.1'.",
        )
    return InferOptions(request_id=options.request_id)


def _refuse(server_url: Any, unknown: dict[str, Any], method: Callable[..., Any]) -> None:
    """Refuse arguments that are not allowed here, although the public server accepts them, and arguments unknown to `method`."""
    if server_url is not None:
        raise RefusedArgument("server_url", "this service uses its own Triton only. Leave it out.")
    for name in unknown:
        known = [known for known in inspect.signature(method).parameters if known not in _NOT_FOR_CLIENTS]
        if name in REQUEST_KEYS and name not in known:
            more = "" if name == "model_id" else f', "{name}": ...'
            raise RefusedArgument(
                name, f'it belongs into the dict in `inputs`, as in inputs=[{{"model_id": "affable-shark"{more}}}].'
            )
        expected = f"The known arguments are {', '.join(known)}." if known else "The method takes no arguments."
        raise RefusedArgument(name[:60], f"there is no such argument.{did_you_mean(name, known)} {expected}")
