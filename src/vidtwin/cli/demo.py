"""The command demo."""

import ipaddress
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from vidtwin.cli.options import MINI, Model, UsageError

if TYPE_CHECKING:
    from vidtwin.demo.studio import Limits, Studio

AUTH = "VIDTWIN_DEMO_AUTH"


def demo_command(
    generator: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | None = None,
    max_mb: int = 100,
    max_seconds: float = 20.0,
    max_side: int = 4096,
    public_name: str | None = None,
    keep_minutes: float = 60.0,
    model: Model = MINI,
) -> None:
    """Open a web page on this machine: see what each latent holds of a video; change how it moves; swap and mix two; generate.

    Args:
        generator: a shipped name (sprites), a hub id, or the folder `model` of a run of `vidtwin train-generator`, to generate with
            on the page.
        host: address to serve on. Any address except 127.0.0.1 gives others access, and needs --auth.
        port: to serve on.
        auth: USER:PASSWORD of visitors; better set as VIDTWIN_DEMO_AUTH in the environment, where other users cannot see it.
        max_mb: largest size of a visitor's file, in 10^6 bytes; all visitors' files together may have 20 times as much.
        max_seconds: longest duration of a visitor's video, with at most 60 frames for each of these seconds.
        max_side: most pixels of the longer side of a visitor's video.
        public_name: host name that visitors use, if the page is behind another server (demo.example.org).
        keep_minutes: minutes of inactivity after which a visitor's files are deleted.
    """
    numbers = {"max-mb": max_mb, "max-seconds": max_seconds, "max-side": max_side, "keep-minutes": keep_minutes}
    for option, value in numbers.items():
        if not 0 < value < 1e9:
            raise UsageError(f"--{option} {value}: give a number above 0")
    if not 0 < port < 65536:
        raise UsageError(f"--port {port}: give 1 to 65535")
    user, colon, password = (auth or os.environ.get(AUTH, "")).partition(":")
    if (auth or os.environ.get(AUTH)) and not (user and colon and password):
        raise UsageError("--auth: give USER:PASSWORD, neither of them empty")
    if not is_local(host):
        if not password:
            raise UsageError(f"--host {host}: others could use this machine; add --auth USER:PASSWORD, or leave --host out")
        print(
            f"vidtwin: warning: serving on {host}: anyone who reaches it and knows the password can use this machine's processor; "
            "passwords and videos are sent unencrypted, put a server with TLS before it",
            file=sys.stderr,
        )
    from vidtwin.demo.server import Place, serve
    from vidtwin.demo.studio import Limits

    limits = Limits(max_mb, max_seconds, max_side)
    place = Place(host, port, (user, password) if password else None, names_of(host, public_name), keep_minutes)
    try:
        serve(partial(studio, model, generator, limits), limits, place, lambda url: print(f"open {url}", flush=True))
    except ModuleNotFoundError as error:
        raise UsageError(f"the page needs the package {error.name}: pip install 'vidtwin[demo]'") from None


def studio(model: Model, generator: str | None, limits: "Limits") -> "Studio":
    """What the page's worker works with."""
    from vidtwin.demo.studio import Studio
    from vidtwin.generation.pipeline import VidTwinPipeline
    from vidtwin.model.cards import read_quality
    from vidtwin.model.hub import find_weights

    engine, identity = model.load(stored=True)
    pipeline = None if generator is None else VidTwinPipeline.from_pretrained(generator).to(engine.device)
    return Studio(engine, identity, limits, pipeline, read_quality(find_weights(model.weights)))


def names_of(host: str, public_name: str | None) -> frozenset[str] | None:
    """Hosts that requests to an address may be for, so that no page of another site, whose name it lets lead here, reaches it.

    None, for any, where others than this machine reach the address and it has no public name.
    """
    if not (is_local(host) or public_name):
        return None
    return frozenset({host.lower(), "localhost", "127.0.0.1", "::1"} | ({public_name.lower()} if public_name else set()))


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
