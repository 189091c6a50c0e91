"""The image and the Deployment of the service name what the service has."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from absl import flags

from chexjax.cli import COMMANDS
from chexjax.serve.command import define_flags
from chexjax.serve.guard import OPEN

REPOSITORY = Path(__file__).parent.parent.parent
DOCKERFILE = (REPOSITORY / "launch" / "Dockerfile").read_text()


@pytest.fixture
def container() -> dict:
    deployment, _ = yaml.safe_load_all((REPOSITORY / "launch" / "kubernetes" / "serve.yaml").read_text())
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return only


def entry() -> list[str]:
    (command,) = re.findall(r"^ENTRYPOINT \[(.*)\]$", DOCKERFILE, re.MULTILINE)
    return re.findall(r'"([^"]*)"', command)


def test_the_entry_point_is_the_command(container: dict) -> None:
    program, name, *own = entry()
    assert (program, COMMANDS[name].module) == ("chexjax", "chexjax.serve")
    values = flags.FlagValues()
    define_flags(values)
    assert values([program, *own, *container["args"]]) == [program]  # raises on an unknown flag
    assert (values.host, values.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    deployment, _ = yaml.safe_load_all((REPOSITORY / "launch" / "kubernetes" / "serve.yaml").read_text())
    first = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > first + 2 * values.timeout + 1


def test_the_probes_ask_for_what_needs_no_token(container: dict) -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in OPEN
        assert asked["port"] == container["ports"][0]["name"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz/live"


def test_what_the_image_copies_and_installs_is_there() -> None:
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        assert all((REPOSITORY / source).exists() for source in sources), line
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)
    assert set(named.split(",")) <= extras.keys()


def test_the_service_finds_its_pods() -> None:
    deployment, service = yaml.safe_load_all((REPOSITORY / "launch" / "kubernetes" / "serve.yaml").read_text())
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    mounted = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == mounted
    assert any(mount["mountPath"] == "/cache" for mount in container["volumeMounts"])
    assert "CHEXJAX_CACHE=/cache" in DOCKERFILE


def test_it_runs_as_the_images_own_user_under_the_restricted_standard(container: dict) -> None:
    """Kubernetes' Pod Security Standards, "restricted"."""
    deployment, _ = yaml.safe_load_all((REPOSITORY / "launch" / "kubernetes" / "serve.yaml").read_text())
    pod, own = deployment["spec"]["template"]["spec"]["securityContext"], container["securityContext"]
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert (pod["runAsNonRoot"], str(pod["runAsUser"])) == (True, user)
    assert f"useradd --uid {user}" in DOCKERFILE
    assert f"install -d -o {user} -g {user} /cache" in DOCKERFILE  # without a volume it is written to, too
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (own["allowPrivilegeEscalation"], own["capabilities"]) == (False, {"drop": ["ALL"]})
