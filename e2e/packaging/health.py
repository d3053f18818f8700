"""What Argo CD, kstatus and Flux show of Stoker's objects: the files in manifests/gitops over the objects in fixtures/."""

import json
import subprocess
import tempfile
from pathlib import Path

from rendering import HERE, ROOT, TOOLS, kustomize, objects

ARGO = ROOT / "manifests" / "gitops" / "argocd"
FLUX = ROOT / "manifests" / "gitops" / "flux" / "models.yaml"
FIXTURES = HERE / "fixtures"
KINDS = ("ModelDeployment", "ModelRouter", "ModelRoute")


def scripts():
    """The health script of each kind, as Argo CD finds it in its ConfigMap."""
    (settings,) = objects((ARGO / "health.yaml").read_text())
    return {kind: settings["data"][f"resource.customizations.health.stoker.dev_{kind}"] for kind in KINDS}


def expressions():
    """Flux's expressions by kind."""
    (kustomization,) = objects(FLUX.read_text())
    return {one["kind"]: {key: one[key] for key in ("inProgress", "failed", "current")} for one in kustomization["spec"]["healthCheckExprs"]}


def cases():
    for path in sorted(FIXTURES.glob("*.yaml")):
        (file,) = objects(path.read_text())
        for case in file["cases"]:
            yield f"{path.name}: {case['case']}", case["expect"], case["object"]


def check():
    """Every object is shown as its case says, by all three, and every word that Argo CD has for a health is tried."""
    lua, cel = scripts(), expressions()
    asked = [
        (name, expect, {"object": item, "lua": lua[item["kind"]], "cel": cel.get(item["kind"])})
        for name, expect, item in cases()
    ]
    assert len(asked) > 30, len(asked)
    lines = "".join(json.dumps(question) + "\n" for _, _, question in asked)
    ended = subprocess.run([TOOLS, "health"], input=lines, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(answers) == len(asked), ended.stderr
    wrong = []
    for (name, expect, _), answer in zip(asked, answers):
        found = {"argo": answer["argo"]["status"], "kstatus": answer["kstatus"]["status"], "flux": answer["flux"]}
        if found != {key: expect[key] for key in found} or expect["says"] not in answer["argo"]["message"]:
            wrong.append(f"{name}:\n  wanted {expect}\n  found  {answer}")
    assert not wrong, "\n".join(wrong)
    assert {answer["argo"]["status"] for answer in answers} == {"Healthy", "Progressing", "Degraded", "Suspended"}
    assert {answer["kstatus"]["status"] for answer in answers} == {"Current", "InProgress", "Failed"}


def check_component():
    """The component adds the scripts to an argocd-cm and keeps what that holds."""
    with tempfile.TemporaryDirectory(prefix="stoker-argocd-", dir=ROOT / "target") as folder:
        folder = Path(folder)
        settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm"}, "data": {"url": "https://cd.example"}}
        (folder / "argocd-cm.yaml").write_text(json.dumps(settings))
        up = "/".join(".." for _ in folder.relative_to(ROOT).parts)
        built = {"resources": ["argocd-cm.yaml"], "components": [f"{up}/manifests/gitops/argocd"]}
        (folder / "kustomization.yaml").write_text(json.dumps(built))
        (joined,) = objects(kustomize(folder))
    assert joined["data"]["url"] == "https://cd.example", joined
    assert len(joined["data"]) == 1 + len(KINDS), sorted(joined["data"])
