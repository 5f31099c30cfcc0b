"""cron/kubernetes: valid for every supported Kubernetes, and what the schemas do not see holds too."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from datetime import UTC, datetime
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cronsim import CronSim

from reconcile.core.shards import shard_of_platform, shards_of
from tests.platforms import kustomize, shipped

KUBERNETES = shipped.CRON / "kubernetes"
BUILDS = {
    path.parent.relative_to(KUBERNETES).as_posix(): path.parent
    for path in sorted(KUBERNETES.glob("*/**/kustomization.yaml"))
    if "components" not in path.parts
}
VERSIONS = ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
POD_START_S = 15  # scheduling, image pull, Python

builds = pytest.mark.parametrize("build", BUILDS)


def cron_jobs(build: str) -> dict[str, dict[str, Any]]:
    """The build's CronJobs by name."""
    resources = kustomize.build(BUILDS[build])
    return {item["metadata"]["name"]: item for item in resources if item["kind"] == "CronJob"}


def container(cron_job: dict[str, Any]) -> dict[str, Any]:
    """Its only container."""
    (found,) = pod(cron_job)["containers"]
    assert isinstance(found, dict)
    return found


def pod(cron_job: dict[str, Any]) -> dict[str, Any]:
    """Its pods' spec."""
    spec = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def period_s(schedule: str) -> float:
    """Seconds between two ticks."""
    assert len(schedule.split()) == 5, schedule
    ticks = CronSim(schedule, datetime(2026, 1, 1, tzinfo=UTC))
    first = next(ticks)
    return (next(ticks) - first).total_seconds()


@pytest.mark.parametrize("version", VERSIONS)
@builds
def test_the_schemas_accept_every_resource(build: str, version: str) -> None:
    """Strict: no field the version does not know."""
    resources = kustomize.build(BUILDS[build])
    assert len(resources) == 4
    for resource in resources:
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_schemas_see_a_misspelled_field() -> None:
    """The check above is worth something."""
    broken = copy.deepcopy(cron_jobs("base")["reconcile-run"])
    broken["spec"]["startingDeadlineSecond"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@builds
def test_our_small_kustomize_agrees_with_the_real_one(build: str) -> None:
    """Apart from the hash in the ConfigMap's name."""
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    if shutil.which(command[0]) is None:
        pytest.skip("neither kustomize nor kubectl is installed; the resources are checked either way")
    result = subprocess.run([*command, str(BUILDS[build])], capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    real = list(yaml.safe_load_all(re.sub(r"(reconcile-config)-[0-9a-z]{10}\b", r"\1", result.stdout)))
    assert "reconcile-config-" in result.stdout

    def by_name(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(resources, key=lambda resource: (resource["kind"], resource["metadata"]["name"]))

    assert by_name(kustomize.build(BUILDS[build])) == by_name(real)


@builds
def test_deadlines_fit_inside_each_other(build: str) -> None:
    """pod start + --max-runtime + our grace ≤ activeDeadline; + termination grace ≤ the period."""
    for name, job in cron_jobs(build).items():
        spec, job_spec = job["spec"], job["spec"]["jobTemplate"]["spec"]
        ours_s = POD_START_S + shipped.max_runtime_s(container(job)["args"]) + shipped.RUN_GRACE_S
        deadline_s, grace_s = job_spec["activeDeadlineSeconds"], pod(job)["terminationGracePeriodSeconds"]
        assert ours_s <= deadline_s, name
        assert grace_s > shipped.RUN_GRACE_S, name
        assert 10 < spec["startingDeadlineSeconds"] < period_s(spec["schedule"]), name
        if not spec.get("suspend"):
            assert deadline_s + grace_s <= period_s(spec["schedule"]), name


@builds
def test_what_the_schemas_do_not_see(build: str) -> None:
    """Enumerations, names, combinations the API server refuses or that do harm quietly."""
    for name, job in cron_jobs(build).items():
        spec, job_spec = job["spec"], job["spec"]["jobTemplate"]["spec"]
        assert len(name) <= 52
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["timeZone"] == "Etc/UTC"
        assert pod(job)["restartPolicy"] == "Never", "podFailurePolicy is refused with anything else"
        assert job_spec["podReplacementPolicy"] == "Failed", "podFailurePolicy is refused with anything else"
        indexed = job_spec.get("completionMode") == "Indexed"
        assert 0 <= job_spec["backoffLimitPerIndex" if indexed else "backoffLimit"] <= 2
        assert ("backoffLimit" in job_spec) != indexed, "it would count the failures of all shards together"
        assert spec["failedJobsHistoryLimit"] == 3
        assert job_spec["ttlSecondsAfterFinished"] == 86_400
        assert "namespace" not in job["metadata"]


@builds
def test_exit_codes_that_no_retry_cures_fail_the_job(build: str) -> None:
    """2, 3 and 5 at once, of several shards only their own; evictions do not count; everything else is retried."""
    for job in cron_jobs(build).values():
        ignore, fail = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        indexed = job["spec"]["jobTemplate"]["spec"].get("completionMode") == "Indexed"
        assert fail["action"] == ("FailIndex" if indexed else "FailJob")
        assert fail["onExitCodes"] == {
            "containerName": container(job)["name"],
            "operator": "In",
            "values": [2, 3, 5],
        }


@builds
def test_pods_may_do_nothing_but_their_work(build: str) -> None:
    """The 'restricted' pod security standard, a read-only root, no token, no service links, bounded memory."""
    for job in cron_jobs(build).values():
        spec, security = pod(job), container(job)["securityContext"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert security == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert set(container(job)["resources"]["limits"]) == {"memory"}
        assert all(volume.get("emptyDir", {"sizeLimit": 1}).get("sizeLimit") for volume in spec["volumes"])


@builds
def test_what_is_mounted_exists_and_what_is_read_is_mounted(build: str) -> None:
    """ConfigMap and Secrets are files; every path in the environment lies under a mount of the right volume."""
    resources = kustomize.build(BUILDS[build])
    config_maps = {item["metadata"]["name"]: item["data"] for item in resources if item["kind"] == "ConfigMap"}
    for job in cron_jobs(build).values():
        volumes = {volume["name"]: volume for volume in pod(job)["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container(job)["volumeMounts"]}
        assert sorted(mounts.values()) == sorted(volumes)
        for entry in container(job)["env"]:
            assert "://" not in entry["value"]
            if entry["value"].startswith("/"):
                folder, _, file = entry["value"].rpartition("/")
                volume = volumes[mounts[folder]]
                if "configMap" in volume:
                    assert file in config_maps[volume["configMap"]["name"]]
                else:
                    assert volume["secret"]["defaultMode"] == 0o440
                    assert volume["secret"]["secretName"] in ("reconcile", "reconcile-tls")


def test_the_three_jobs_run_in_the_same_pod() -> None:
    """They differ in arguments and times only: one image, one configuration, one confinement."""
    pods = []
    for job in cron_jobs("overlays/all").values():
        spec = copy.deepcopy(pod(job))
        spec.pop("terminationGracePeriodSeconds")
        spec["containers"][0].pop("args")
        pods.append(spec)
    assert pods[0] == pods[1] == pods[2]


def test_overlays_do_what_their_names_say() -> None:
    """Every minute; a deep audit once a night; TLS files for every job; the load template never starts by itself."""
    jobs = cron_jobs("overlays/all")
    assert jobs["reconcile-run"]["spec"]["schedule"] == "* * * * *"
    audit = jobs["reconcile-verify"]
    assert container(audit)["args"][:2] == ["verify", "--deep"]
    assert period_s(audit["spec"]["schedule"]) == 86_400
    for job in jobs.values():
        assert "/etc/reconcile/tls" in {mount["mountPath"] for mount in container(job)["volumeMounts"]}
    assert {name for name, job in jobs.items() if job["spec"].get("suspend")} == {"reconcile-load"}
    for part in ("every-minute", "nightly-deep-audit", "shards", "tls"):
        assert f"overlays/{part}" in BUILDS


def test_every_pod_of_an_indexed_job_has_a_shard() -> None:
    """All of them run at once, and the variables they are given make up all shards; an audit is of the whole view."""
    jobs = cron_jobs("overlays/shards")
    for name in ("reconcile-run", "reconcile-load"):
        spec = jobs[name]["spec"]["jobTemplate"]["spec"]
        assert (spec["completionMode"], spec["parallelism"]) == ("Indexed", spec["completions"])
        given = {entry["name"]: entry["value"] for entry in container(jobs[name])["env"]}
        pods = [given | {"JOB_COMPLETION_INDEX": str(i)} for i in range(spec["completions"])]
        assert [shard_of_platform(pod) for pod in pods] == shards_of(4)
    assert "completionMode" not in jobs["reconcile-verify"]["spec"]["jobTemplate"]["spec"]


def test_the_shipped_configuration_loads(tmp_path: Any) -> None:
    """base/config.yaml with the Secret's two files and components/tls is a complete configuration."""
    from reconcile.config.load import load

    for name, url in {
        "materialize-url": "postgres://u:p@mz:6875/materialize",
        "redis-url": "rediss://r:6379/0",
    }.items():
        (tmp_path / name).write_text(url + "\n")
    environ = {
        "MATERIALIZE_URL_FILE": str(tmp_path / "materialize-url"),
        "REDIS_URL_FILE": str(tmp_path / "redis-url"),
        "RECONCILE_MATERIALIZE__SSLMODE": "verify-full",
        "RECONCILE_MATERIALIZE__SSLROOTCERT": "/etc/reconcile/tls/ca.crt",
        "RECONCILE_REDIS__TLS_CA_CERT": "/etc/reconcile/tls/ca.crt",
    }
    settings = load(str(KUBERNETES / "base" / "config.yaml"), environ)
    assert [view.name for view in settings.views] == ["orders"]
    assert settings.materialize.sslmode == "verify-full"
