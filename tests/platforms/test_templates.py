"""The cloud templates: what their own validators let through, and what must agree with the code."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from functions import aws_lambda, build
from functions import event as events
from reconcile.core.shards import shards_of
from tests.platforms import shipped
from tests.support import environment

AWS = shipped.FUNCTIONS / "aws-lambda"


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: !Ref x → {"Ref": x}, !Sub x → {"Fn::Sub": x} …"""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """template.yaml."""
    loaded = yaml.load((AWS / "template.yaml").read_text(), Loader=_Loader)
    assert isinstance(loaded, dict)
    return loaded


def functions_of(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The template's functions with the globals merged in."""
    shared = template["Globals"]["Function"]
    return {
        name: {**shared, **resource["Properties"]}
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }


def references(value: Any) -> set[str]:
    """Names that !Ref, !Sub and !If use."""
    if isinstance(value, list):
        return {name for item in value for name in references(item)}
    if not isinstance(value, dict):
        return set()
    found = {name for item in value.values() for name in references(item)}
    if "Ref" in value:
        found.add(value["Ref"])
    if "Fn::Sub" in value:
        found |= set(re.findall(r"\$\{([\w:]+)\}", value["Fn::Sub"]))
    if "Fn::If" in value:
        found.add(value["Fn::If"][0])
    return found


def test_sam_limits_that_validators_let_through(template: dict[str, Any]) -> None:
    """Lambda's maxima, and our own: no retries of old ticks, one at a time."""
    functions = functions_of(template)
    assert set(functions) == {"RunFunction", "VerifyFunction"}
    for function in functions.values():
        assert 60 <= function["Timeout"] <= 900
        assert 128 <= function["MemorySize"] <= 10_240
        assert function["ReservedConcurrentExecutions"] == 1
        assert 0 <= function["EventInvokeConfig"]["MaximumRetryAttempts"] <= 2
        assert 60 <= function["EventInvokeConfig"]["MaximumEventAgeInSeconds"] <= 21_600
        assert events.budget_s(function["Timeout"], None) + 10 <= function["Timeout"]
        for trigger in function["Events"].values():
            retry = trigger["Properties"]["RetryPolicy"]
            assert 60 <= retry["MaximumEventAgeInSeconds"] <= 86_400
            assert retry["MaximumRetryAttempts"] <= 1


def test_a_run_that_was_not_started_in_its_minute_is_dropped(template: dict[str, Any]) -> None:
    """Event age ≤ the period: ticks never pile up."""
    assert template["Parameters"]["Schedule"]["Default"] == "rate(1 minute)"
    run = functions_of(template)["RunFunction"]
    assert run["EventInvokeConfig"] == {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}
    assert run["Events"]["Tick"]["Properties"]["RetryPolicy"]["MaximumEventAgeInSeconds"] == 60


def test_sam_inputs_are_events_we_accept(template: dict[str, Any]) -> None:
    """The schedules' Input is JSON in our schema."""
    modes = {}
    for name, function in functions_of(template).items():
        request = events.to_request(json.loads(function["Events"]["Tick"]["Properties"]["Input"]))
        modes[name] = request.mode
    assert modes == {"RunFunction": "run", "VerifyFunction": "verify"}


def test_sam_points_at_what_the_build_makes(template: dict[str, Any]) -> None:
    """CodeUri, handler, runtime and architecture are the build's."""
    shared = template["Globals"]["Function"]
    assert (AWS / shared["CodeUri"]).resolve() == shipped.ROOT / "dist" / "reconcile-aws-lambda.zip"
    module, _, name = shared["Handler"].rpartition(".")
    assert (module, name) == (aws_lambda.__name__, aws_lambda.handler.__name__)
    assert shared["Runtime"] == "python3.13"
    assert shared["Architectures"] == ["x86_64"]
    assert shared["Environment"]["Variables"]["RECONCILE_CONFIG"] == "/var/task/config.yaml"


def test_sam_references_exist(template: dict[str, Any]) -> None:
    """Every name used is a parameter, a condition, a resource or AWS's own."""
    known = {*template["Parameters"], *template["Conditions"], *template["Resources"]}
    used = references({key: template[key] for key in ("Globals", "Resources", "Outputs", "Conditions")})
    assert {name for name in used if not name.startswith("AWS::")} <= known
    assert set(template["Parameters"]) <= used


def test_alarms_watch_metrics_the_function_emits(template: dict[str, Any]) -> None:
    """Names, namespace and dimension agree with the embedded metric format line."""
    emitted = aws_lambda._metrics(events.Response({"views": [{"lag_ms": 1500}]}, 0, False, True))
    (directive,) = emitted["_aws"]["CloudWatchMetrics"]
    names = {metric["Name"] for metric in directive["Metrics"]}
    alarms = [item["Properties"] for item in template["Resources"].values() if item["Type"] == "AWS::CloudWatch::Alarm"]
    assert {alarm["MetricName"] for alarm in alarms} == {"Succeeded", "Failed", "Drift"}
    for alarm in alarms:
        assert alarm["Namespace"] == directive["Namespace"]
        assert [dimension["Name"] for dimension in alarm["Dimensions"]] in directive["Dimensions"]
        assert alarm["MetricName"] in names
    assert emitted["Lag"] == 1.5


def test_the_dead_mans_alarm_also_goes_off_when_nothing_runs(template: dict[str, Any]) -> None:
    """No data at all is a breach."""
    alarm = template["Resources"]["NoSuccess"]["Properties"]
    assert (alarm["TreatMissingData"], alarm["ComparisonOperator"]) == ("breaching", "LessThanThreshold")


def test_no_secret_is_a_parameter_or_a_variable(template: dict[str, Any]) -> None:
    """Secrets Manager holds them; the template knows the ARN only."""
    variables = template["Globals"]["Function"]["Environment"]["Variables"]
    assert {name for name in variables if not name.endswith("_ARN")} == {"RECONCILE_CONFIG"}


def test_the_state_machine_runs_every_shard() -> None:
    """Its Map makes events that we accept, one for each shard of one number, and one failure ends no other."""
    machine = json.loads((AWS / "shards.asl.json").read_text())
    listed = machine["States"][machine["StartAt"]]
    each = machine["States"][listed["Next"]]
    assert (each["Type"], each["MaxConcurrency"]) == ("Map", len(listed["Result"]))
    events_made = [{"mode": each["ItemSelector"]["mode"], "shard": item} for item in listed["Result"]]
    assert each["ItemSelector"] == {"mode": "run", "shard.$": "$$.Map.Item.Value"}
    shards = [events.to_request(event).shard for event in events_made]
    assert shards == shards_of(len(shards))
    inner = each["ItemProcessor"]
    task = inner["States"][inner["StartAt"]]
    assert task["Parameters"] == {"FunctionName": "${RunFunctionArn}", "Payload.$": "$"}
    assert task["Catch"][0]["ErrorEquals"] == ["States.ALL"]
    assert task["Catch"][0]["Next"] in inner["States"]


def test_the_cloud_run_job_ends_by_itself() -> None:
    """--max-runtime and its grace < timeoutSeconds; one retry at most; secrets are references."""
    (job,) = shipped.documents(shipped.FUNCTIONS / "google-cloud" / "job.yaml")
    assert (job["apiVersion"], job["kind"]) == ("run.googleapis.com/v1", "Job")
    task = job["spec"]["template"]["spec"]["template"]["spec"]
    (container,) = task["containers"]
    assert shipped.max_runtime_s(container["args"]) + shipped.RUN_GRACE_S < int(task["timeoutSeconds"])
    assert task["maxRetries"] <= 1
    for entry in container["env"]:
        assert ("secretKeyRef" in entry.get("valueFrom", {})) == entry["name"].endswith("_URL")


def test_azures_example_settings_name_what_the_code_reads() -> None:
    """local.settings.example.json: the schedules and our variables."""
    values = json.loads((shipped.FUNCTIONS / "azure-functions" / "local.settings.example.json").read_text())["Values"]
    source = (shipped.FUNCTIONS / "azure.py").read_text()
    assert {name for name in values if name.startswith("SCHEDULE_")} == set(re.findall(r'"(SCHEDULE_\w+)"', source))
    assert {"RECONCILE_CONFIG", "MATERIALIZE_URL", "REDIS_URL"} <= set(values)


def test_every_platform_is_built_by_the_same_script() -> None:
    """The folders, the adapters and the build's choices are the same three."""
    folders = {path.name for path in shipped.FUNCTIONS.iterdir() if path.is_dir() and "-" in path.name}
    assert folders == set(build.PLATFORMS) == set(build.ADAPTERS) == set(build.SHIPPED)


def test_the_workflow_pins_its_actions_and_covers_every_python() -> None:
    """Actions by full version; each Python the project names, up to the newest; read-only permissions."""
    (workflow,) = shipped.documents(shipped.ROOT / ".github" / "workflows" / "test.yml")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    uses = [step["uses"] for step in steps if "uses" in step]
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", use) for use in uses), uses
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14", "3.15"]
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_the_workflow_uses_the_compose_file_as_it_is() -> None:
    """Services it names exist; the variables it sets are the ones the tests read; ports are those published."""
    (workflow,) = shipped.documents(shipped.ROOT / ".github" / "workflows" / "test.yml")
    (compose,) = shipped.documents(shipped.CRON / "container" / "compose.yaml")
    text = (shipped.ROOT / ".github" / "workflows" / "test.yml").read_text()
    for found in re.findall(r"docker compose (?:build|run --rm|exec -T|up [\w -]*?\d+) ([\w ]+)", text):
        assert found.split()[0] in compose["services"], found
    real = next(step for step in workflow["jobs"]["real"]["steps"] if environment.SOURCE_URL in step.get("env", {}))
    known = (shipped.ROOT / "tests" / "conftest.py").read_text()
    for name, url in real["env"].items():
        assert name in known
        port = re.search(r":(\d+)/", url)
        assert port is not None
        published = [entry for service in compose["services"].values() for entry in service.get("ports", [])]
        assert f"127.0.0.1:{port[1]}:{port[1]}" in published
