"""Repositories of the Hugging Face Hub that hold records: their names, what lies in them, and what can go wrong on the way.

The endpoint is that of HF_ENDPOINT, the token that of HF_TOKEN or of `hf auth login`, as for huggingface_hub itself.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from densebench.console import one_line
from densebench.errors import UserError

KIND = "dataset"  # the kind of repository, in the Hub's words
NAME = re.compile(r"hf:([\w][\w.-]{0,95}/[\w][\w.-]{0,95})(?:@([\w][\w./-]{0,254}))?")
NETWORK = ("httpx", "httpcore", "requests", "urllib3")
"""How the names of the packages begin whose errors say that the Hub cannot be reached (httpx2 is one)."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size in bytes, and the digest of its content (see `digest_of`)."""

    size: int
    digest: str
    is_large: bool


@dataclass(frozen=True)
class Repository:
    """A data set repository of the Hub. revision: a branch, a tag or a commit; "" is the main branch."""

    name: str
    revision: str = ""

    @classmethod
    def read(cls, spec: str) -> Self:
        """Return the repository that "hf:ORG/NAME" or "hf:ORG/NAME@REVISION" names. Raises UserError for anything else."""
        match = NAME.fullmatch(spec)
        if match is None or ".." in spec or "--" in match[1] or match[1].endswith((".git", "-", ".")):
            raise UserError(f"{spec!r} names no repository; write hf:ORG/NAME, such as hf:my-lab/dense-scores")
        return cls(match[1], match[2] or "")

    def __str__(self) -> str:
        return f"hf:{self.name}" + (f"@{self.revision}" if self.revision else "")

    def commit(self) -> str | None:
        """Return the id of the newest commit of the revision; None where the repository does not exist."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        with reaching(self):
            try:
                return str(api().repo_info(self.name, repo_type=KIND, revision=self.revision or None).sha)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """Return the files of a commit by their path."""
        with reaching(self):
            tree = list(api().list_repo_tree(self.name, repo_type=KIND, revision=commit, recursive=True))
        return {each.path: _remote(each) for each in tree if hasattr(each, "size")}

    def download(self, commit: str, paths: Sequence[str], files: Mapping[str, RemoteFile], folder: Path) -> None:
        """Write files of a commit below a folder. Raises UserError for one that is not what the Hub lists."""
        if not paths:
            return
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import tqdm

        class Silent(tqdm):  # type: ignore[type-arg, misc]
            """Shows nothing."""

            def __init__(self, *arguments: Any, **values: Any) -> None:
                super().__init__(*arguments, **{**values, "disable": True})

        where = {"local_dir": folder, "endpoint": _endpoint(), "tqdm_class": Silent}
        with reaching(self):
            snapshot_download(self.name, repo_type=KIND, revision=commit, allow_patterns=list(paths), **where)  # type: ignore[call-overload]
        for path in paths:
            file, listed = folder / path, files[path]
            if file.is_symlink() or not file.is_file() or file.stat().st_size != listed.size:
                raise UserError(f"{self}: {path} did not arrive whole; try again")
            if digest_of(file.read_bytes(), is_large=listed.is_large) != listed.digest:
                raise UserError(f"{self}: {path} is not what the repository lists; try again")


def api() -> Any:
    """Return the client of the Hub."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint())


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _remote(each: Any) -> RemoteFile:
    return RemoteFile(int(each.size), str(each.lfs.sha256 if each.lfs else each.blob_id), bool(each.lfs))


def digest_of(content: bytes, *, is_large: bool = False) -> str:
    """Return the digest by which the Hub knows a file: git's of a blob, or the SHA-256 of a large file."""
    if is_large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def reaching(repository: Repository) -> Iterator[None]:
    """Raise UserError, in one line, for whatever goes wrong between here and the Hub during the block."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{repository} asks for an agreement first: open its page, accept, and try again") from error
    except errors.RepositoryNotFoundError as error:
        remedy = "check the name; one that is private takes a token that may see it (HF_TOKEN, or `hf auth login`)"
        raise UserError(f"there is no data set repository {repository}, or it is private: {remedy}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{repository}: there is no such revision; give a branch, a tag or a commit, or leave @... out"
        ) from error
    except errors.HFValidationError as error:
        raise UserError(f"{repository} names no repository ({one_line(str(error))})") from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"{repository} cannot be reached: HF_HUB_OFFLINE is set; unset it") from error
    except errors.HfHubHTTPError as error:
        raise UserError(_refused(repository, error)) from error
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(NETWORK):
            raise
        why = one_line(str(error)) or type(error).__name__
        raise UserError(f"{repository} cannot be reached ({why}); check the network and HF_ENDPOINT, and try again") from error


def _refused(repository: Repository, error: Any) -> str:
    """Return the line for an answer of the Hub that is an error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{repository}: this token has no right to do that; set HF_TOKEN to one that may write there, or `hf auth login`"
    if status in (409, 412):
        return f"{repository} has changed in the meantime; `densebench pull {repository}` first, then push again"
    why = getattr(error, "server_message", None) or str(error)
    return f"{repository}: the Hub answers with an error ({status}: {one_line(str(why))[:300]}); try again later"
