"""What the hub refuses, and what is on this machine without it: each failure in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator

from rimkit.errors import UserError

SHOWN = 5  # names of cached models in an error


def check_hub(repo: str, revision: str | None) -> None:
    """Ask the hub once for a model; without this, no network means a minute of silent retries.

    Raises ``UserError``: no such model or revision, no access to it, or the hub is out of reach.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repo, revision=revision, timeout=10)
    except Exception as error:  # the hub's HTTP library, and so its errors, differ between versions
        raise UserError(refusal(repo, revision, error) or _out_of_reach(repo, revision)) from error


def refusal(repo: str, revision: str | None, error: BaseException) -> str:
    """What the hub said no to, if some cause of ``error`` is an answer of the hub; otherwise an empty string."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for cause in _causes(error):
        if isinstance(cause, GatedRepoError):
            return (
                f"{repo!r} is gated: accept its terms on https://huggingface.co/{repo}, then log in with "
                "'hf auth login' (or set HF_TOKEN)"
            )
        if isinstance(cause, RevisionNotFoundError):
            return f"{repo!r} has no revision {revision!r} on the hub: leave it out for the newest one"
        if isinstance(cause, RepositoryNotFoundError):
            return f"the hub has no model {repo!r} that you may see: check the name, or log in with 'hf auth login'"
        if isinstance(cause, HfHubHTTPError):
            return f"the hub does not give access to {repo!r}: {str(cause).strip().splitlines()[-1]}"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _out_of_reach(repo: str, revision: str | None) -> str:
    from huggingface_hub import constants

    what = f"{repo!r} in revision {revision!r}" if revision else repr(repo)
    why = " (switched off by HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    return (
        f"{what} is not complete on this machine and the hub cannot be reached{why}: run 'rimkit fetch {repo}' where "
        f"there is a network, or give a folder (in the cache: {_cached(repo)})"
    )


def _cached(repo: str) -> str:
    """The revisions of a model that are in the hub's cache, or else the models that are."""
    from huggingface_hub import scan_cache_dir

    try:
        models = {item.repo_id: item for item in scan_cache_dir().repos if item.repo_type == "model"}
    except Exception:  # no cache, or a damaged one, must not hide what is being said
        return "nothing"
    if repo in models:
        revisions = models[repo].revisions
        names = sorted({name for item in revisions for name in (*item.refs, item.commit_hash[:8])})
        return f"{repo} in revision {', '.join(names)}" if names else "parts of it"
    names = sorted(models)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "no models"
