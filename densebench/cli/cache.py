"""`densebench cache`: the room that cached features take."""

from __future__ import annotations

import json

import typer

app = typer.Typer(no_args_is_help=True)


@app.command("ls")
def ls() -> None:
    """List what is cached, with sizes."""
    from densebench.files import cache_root
    from densebench.store import usage

    stores = usage(cache_root())
    for store in stores:
        about = json.loads(store.about)
        what = about.get("spec") or "work in progress"
        view = about.get("view", {})
        print(f"{store.bytes / 2**20:9.1f} MiB  {store.folder.name[:8]}  {what}  {view.get('size') or 'native' if view else ''}")
    print(f"{sum(store.bytes for store in stores) / 2**20:9.1f} MiB  in all, under {cache_root()}")


@app.command("clear")
def clear() -> None:
    """Remove all cached features; the next run computes them again."""
    from densebench import store
    from densebench.files import cache_root

    print(f"freed {store.clear(cache_root()) / 2**20:.1f} MiB under {cache_root()}")
