"""`push_to_hub`: uploads a bundle to the Hugging Face hub, with a model card made from its report."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import huggingface_hub.errors as hub_errors
from huggingface_hub import CommitOperationAdd, HfApi

from rpln_export.api.bundle import Bundle
from rpln_export.errors import HubError
from rpln_runtime.manifest import MANIFEST_NAME

CARD_NAME: Final = "README.md"
"""The file that the hub shows as the page of a model."""


def push_to_hub(
    bundle: Bundle | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a bundle to the Hugging Face hub in one commit, and return the address of the commit.

    The files are compared with the manifest first, and no others are uploaded but the model card, README.md, which is
    made from the report and replaces the one that is there.

    Args:
        bundle: the bundle, or its folder.
        repo_id: the repository, such as "owner/name". It is made if it does not exist.
        private: whether a repository that is made is private. None means what its owner has set.
        token: the token of the hub. None means the one that `hf auth login` or HF_TOKEN has set.
        revision: the branch to upload to, which is made if it does not exist. None means the main branch.
        commit_message: the message of the commit. None means one that names the checkpoint, the task and the precision.

    Raises ManifestError for files that are not as they were exported, ReportError for a bundle whose report cannot be
    read, and HubError where the hub cannot be reached or refuses the upload.
    """
    from rpln_export.api.model_card import model_card  # which imports torch

    checked = Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle)
    card = model_card(checked, repo_id)
    report = checked.report
    message = commit_message or f"Add {report.name} for {report.task} in {report.recipe}"
    names = [MANIFEST_NAME, *(file.path for file in checked.manifest.files)]
    operations = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=checked.path / name) for name in names),
        CommitOperationAdd(path_in_repo=CARD_NAME, path_or_fileobj=card.encode()),
    ]
    api = HfApi(token=token, library_name="rpln-export")
    with _errors_of_the_hub(repo_id, api.endpoint):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    return commit.commit_url


@contextmanager
def _errors_of_the_hub(repo_id: str, endpoint: str) -> Iterator[None]:
    """Raise HubError for whatever goes wrong on the way to the hub or there."""
    from rpln_model.hub import uses_cache_only  # which imports torch

    if uses_cache_only():
        raise HubError(
            f"{repo_id} was not uploaded, because {endpoint} does not answer, or HF_HUB_OFFLINE is set. Check the "
            "network and the proxy, and try again."
        )
    try:
        yield
    except (hub_errors.HTTPError, hub_errors.HFValidationError, OSError) as error:  # type: ignore[attr-defined]
        answer = " ".join(str(error).split())
        raise HubError(
            f"{repo_id} was not uploaded to {endpoint}: {answer} Check the name, and that you may write there: run "
            "`hf auth login`, or pass token."
        ) from error
