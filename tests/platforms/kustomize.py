"""As much of kustomize as our own kustomizations use, so that CI needs no binary; anything else is refused.

Where kubectl or kustomize is installed, a test compares this with the real thing.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

_KNOWN = {
    "Kustomization": {"apiVersion", "kind", "labels", "resources", "configMapGenerator", "images", "components"},
    "Component": {"apiVersion", "kind", "patches"},
}
_API = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}


def build(directory: Path) -> list[Resource]:
    """The resources of a kustomization; generated ConfigMaps keep their name without the hash."""
    spec = _read(directory, "Kustomization")
    resources: list[Resource] = []
    for entry in spec.get("resources", []):
        path = directory / entry
        if path.is_dir():
            resources += build(path)
        else:
            resources += [item for item in yaml.safe_load_all(path.read_text()) if item]
    for generator in spec.get("configMapGenerator", []):
        assert set(generator) == {"name", "files"}, generator
        data = {Path(name).name: (directory / name).read_text() for name in generator["files"]}
        metadata = {"name": generator["name"]}
        resources.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for labels in spec.get("labels", []):
        assert set(labels) == {"pairs", "includeTemplates"}, labels
        assert labels["includeTemplates"] is True
        for resource in resources:
            _label(resource, labels["pairs"])
    for image in spec.get("images", []):
        assert set(image) == {"name", "newName", "newTag"}, image
        _rename_image(resources, image)
    for component in spec.get("components", []):
        _apply_component(directory / component, resources)
    return resources


def _read(directory: Path, kind: str) -> dict[str, Any]:
    spec = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert (spec["kind"], spec["apiVersion"]) == (kind, _API[kind]), directory
    assert set(spec) <= _KNOWN[kind], f"{directory}: {set(spec) - _KNOWN[kind]}: teach tests/platforms/kustomize.py"
    return dict(spec)


def _label(resource: Resource, pairs: dict[str, str]) -> None:
    places = [resource["metadata"]]
    if resource["kind"] == "CronJob":
        job = resource["spec"]["jobTemplate"]
        places += [job.setdefault("metadata", {}), job["spec"]["template"].setdefault("metadata", {})]
    for metadata in places:
        metadata.setdefault("labels", {}).update(pairs)


def _rename_image(resources: list[Resource], image: dict[str, str]) -> None:
    for resource in resources:
        if resource["kind"] == "CronJob":
            for container in resource["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]:
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"


def _apply_component(directory: Path, resources: list[Resource]) -> None:
    for patch in _read(directory, "Component")["patches"]:
        assert set(patch) == {"target", "patch"}, patch
        assert set(patch["target"]) == {"kind", "name"}, patch["target"]
        matching = [
            resource
            for resource in resources
            if resource["kind"] == patch["target"]["kind"]
            and re.fullmatch(patch["target"]["name"], resource["metadata"]["name"])
        ]
        assert matching, f"{directory}: nothing is called {patch['target']['name']}"
        for resource in matching:
            for operation in yaml.safe_load(patch["patch"]):
                _apply(resource, copy.deepcopy(operation))


def _apply(resource: Resource, operation: dict[str, Any]) -> None:
    """One JSON 6902 operation; the parent must exist, for `replace` and `remove` the member too, for `add` not."""
    assert set(operation) == {"op", "path"} | ({"value"} if operation["op"] != "remove" else set()), operation
    *parents, last = operation["path"].removeprefix("/").split("/")
    place: Any = resource
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if operation["op"] == "add" and isinstance(place, list):
        assert last == "-", operation
        place.append(operation["value"])
        return
    assert (last in place) == (operation["op"] != "add"), operation
    if operation["op"] == "remove":
        del place[last]
    else:
        place[last] = operation["value"]
