"""`lumi serve`: load, bind, serve until told to end. Nothing is bound, or loaded, before what was asked is checked."""

import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from lumi.config import Config
from lumi.conversation import find_template, read_template
from lumi.devices import DeviceName, DtypeName
from lumi.errors import ConfigError, DataError
from lumi.inference.chat.server_answerer import KEY_VARIABLE
from lumi.progress import say
from lumi.serving.limits import Limits
from lumi.tokenizer import Tokenizer, require_same_tokenizer


class ServeConfig(Config):
    """Serve models over HTTP, in OpenAI's protocol."""

    model_path: tuple[Path, ...] = Field(min_length=1)
    """Checkpoint folders, such as checkpoints/sft_industrial/tiny/final; a client names one by its last folders."""
    tokenizer_path: Path | None = None
    """The checkpoints have their tokenizers; when one is given, they must be the same."""
    template: str | None = None
    """The checkpoints have their templates; when one is named, they must be the same."""
    mode: Literal["api", "interactive"] = "api"
    """api: the server; interactive: a conversation in this terminal, as `lumi chat`."""
    host: str = "127.0.0.1"
    """Address to serve at; one that others can reach needs an API key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """0: any that is free."""
    api_key: str | None = None
    """Key that clients have to send; better given as LUMI_API_KEY, which nobody else on the machine sees."""
    api_keys_file: Path | None = None
    """File of keys, one a line."""
    num_slots: int | None = Field(default=None, gt=0)
    """Answers of a model written at once; default: by free memory, at most 256 on a card, 16 on a CPU."""
    device: DeviceName = "auto"
    """Where to compute."""
    dtype: DtypeName = "auto"
    """Type to compute in."""
    int8: bool = False
    """Keep the matrices in int8, on a CPU: a quarter of the memory, quicker, other roundings."""
    log_requests: bool = False
    """Print a line for each request; never what was asked or answered."""
    limits: Limits = Limits()


def serve(config: ServeConfig) -> None:
    """Serve until a signal.

    Raises:
        ConfigError, DataError, IntegrityError: a model, an address or a key that does not do.
        SystemExit: 128 and the number of the signal.
    """
    for folder in config.model_path:
        _check_model(folder, config)
    if config.mode == "interactive":
        _talk(config)
        return
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"serving needs {error.name}, which is not installed", "pip install 'lumi-lab[serve]'"
        ) from None
    from lumi.serving.app import create_app
    from lumi.serving.guard import LOOPBACK_NAMES
    from lumi.serving.keys import Keys, read_keys
    from lumi.serving.served_model import ServedModel, model_ids
    from lumi.serving.server import Server, bind
    from lumi.serving.service import Service

    given = [config.api_key, os.environ.get(KEY_VARIABLE)]
    keys = Keys([*filter(None, given), *(read_keys(config.api_keys_file) if config.api_keys_file else [])])
    ids = model_ids(config.model_path)
    with bind(config.host, config.port) as bound:
        address, port = bound.getsockname()[:2]
        is_local = ipaddress.ip_address(address).is_loopback
        if not is_local and not keys:
            raise ConfigError(
                f"{config.host} can be reached from other machines, and there is no API key",
                f"set {KEY_VARIABLE}, or give --api_keys_file; or serve this machine alone: --host 127.0.0.1",
            )
        models = []
        for folder, model_id in zip(config.model_path, ids, strict=True):
            model = ServedModel.load(
                folder,
                model_id,
                device=config.device,
                dtype=config.dtype,
                num_slots=config.num_slots,
                int8=config.int8,
            )
            say(
                f"{model.id}: {model.num_parameters / 1e6:,.1f}M parameters, context {model.context:,},"
                f" {model.num_slots} slots on {model.thread.engine.device}"
                f"{'' if model.template else '; a base model: /v1/completions alone'}"
            )
            models.append(model)
        shown = f"[{address}]" if bound.family == socket.AF_INET6 else address
        service = Service(models, config.limits)
        hosts = {*LOOPBACK_NAMES, shown} if is_local else ()
        app = create_app(service, keys, hosts=hosts, logs=config.log_requests)
        server = Server(
            app, service, f"serving at http://{shown}:{port}{' (with an API key)' if keys else ''}; Ctrl-C ends"
        )
        server.run([bound])
    if server.signal is not None:
        say("ended")
        sys.exit(128 + server.signal)


def _check_model(folder: Path, config: ServeConfig) -> None:
    """Hold a checkpoint against the tokenizer and the template that were named."""
    if not folder.is_dir():
        raise DataError(f"no model at {folder}", "check --model_path; `make sft-train-tiny` trains one")
    if config.tokenizer_path is not None:
        expected = Tokenizer.load(config.tokenizer_path).sha256
        require_same_tokenizer(expected, Tokenizer.load(folder).sha256, str(folder))
    if config.template is not None:
        template = read_template(folder)
        if template != find_template(config.template):
            found = (
                f"was tuned with the template {template.name}" if template else "is a base model, without a template"
            )
            raise ConfigError(
                f"{folder} {found}, and --template asks for {config.template}",
                "leave --template out: a model answers in the form that it was taught",
            )


def _talk(config: ServeConfig) -> None:
    from lumi.inference.chat import ChatConfig, run_chat

    if len(config.model_path) > 1:
        raise ConfigError("--mode interactive talks to one model", "name one in --model_path")
    if config.int8:
        raise ConfigError("--int8 is for --mode api", "leave it out; --dtype fp16 reads half as much as fp32")
    run_chat(ChatConfig(model_path=config.model_path[0], device=config.device, dtype=config.dtype))
