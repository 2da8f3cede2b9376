"""The command demo."""

import ipaddress
import os
import sys

from vidtwin.cli.options import MINI, SAMPLE, Model, UsageError

AUTH = "VIDTWIN_DEMO_AUTH"


def demo_command(
    generator: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | None = None,
    max_mb: int = 100,
    max_seconds: float = 20.0,
    max_side: int = 4096,
    model: Model = MINI,
) -> None:
    """Open a web page on this machine: drop a video, and see what each latent holds; swap and mix two videos; generate.

    Args:
        generator: a shipped name (sprites), a hub id, or the folder `model` of a run of `vidtwin train-generator`, to generate
            with on the page.
        host: address to serve on. Any but 127.0.0.1 lets others in, and needs --auth.
        port: to serve on.
        auth: USER:PASSWORD that visitors must give; or in the environment, as VIDTWIN_DEMO_AUTH, where others cannot see it.
        max_mb: size of a file that a visitor may give, in 10^6 bytes.
        max_seconds: length of a visitor's video.
        max_side: pixels of the longer side of a visitor's video.
    """
    for option, value in (("max-mb", max_mb), ("max-seconds", max_seconds), ("max-side", max_side)):
        if not value > 0:
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
            f"vidtwin: warning: serving on {host}: whoever reaches it and knows the password can use this machine's processor; "
            "passwords and videos travel unencrypted, put a server with TLS before it",
            file=sys.stderr,
        )
    try:
        from vidtwin.demo.page import serve
    except ModuleNotFoundError as error:
        raise UsageError(f"the page needs the package {error.name}: pip install 'vidtwin[demo]'") from None
    from vidtwin.demo.studio import Limits, Studio
    from vidtwin.generation.pipeline import VidTwinPipeline

    engine, identity = model.load()
    pipeline = None if generator is None else VidTwinPipeline.from_pretrained(generator).to(engine.device)
    studio = Studio(engine, identity, Limits(max_mb, max_seconds, max_side), pipeline)
    serve(studio, SAMPLE, host, port, (user, password) if password else None, lambda url: print(f"open {url}", flush=True))


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
