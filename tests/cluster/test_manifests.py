"""launch/'s manifests and Dockerfile: by their schemas, and as workers read them."""

import configparser
import pathlib
import shutil
import subprocess

import pytest
from absl.testing import flagsaver

from tem_studies import command_line
from tem_tf import cluster

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate is not installed"
)

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
# The oldest Kubernetes in which an indexed Job with podFailurePolicy is stable, and the
# newest of which there is a schema.
VERSIONS = ("1.31", kubernetes_validate.latest_version())
KINDS = ("Service", "NetworkPolicy", "PersistentVolumeClaim", "Job")


def documents(name):
    return list(yaml.safe_load_all((LAUNCH / f"{name}.yaml").read_text()))


def job_set():
    (document,) = documents("jobset")
    return document


def tf_job():
    (document,) = documents("tfjob")
    return document


def as_object(kind, version, spec, metadata=None):
    metadata = {"name": "of-a-template", **(metadata or {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def check(document, version):
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", documents("kubernetes"), ids=KINDS)
def test_kubernetes_knows_the_manifests(document, version):
    check(document, version)


def test_what_kubernetes_does_not_know_is_noticed():
    job = documents("kubernetes")[-1]
    for wrong in ({"completionMod": "Indexed"}, {"completions": "3"}):
        with pytest.raises(kubernetes_validate.ValidationError):
            check({**job, "spec": {**job["spec"], **wrong}}, VERSIONS[-1])


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_the_templates_of_the_others(version):
    for replicated in job_set()["spec"]["replicatedJobs"]:
        check(as_object("Job", "batch/v1", replicated["template"]["spec"]), version)
    template = tf_job()["spec"]["tfReplicaSpecs"]["Worker"]["template"]
    check(as_object("Pod", "v1", template["spec"], template["metadata"]), version)


def test_a_job_sets_fields_are_those_of_its_schema():
    """Its models pass over what they do not know, which is then missing."""
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed"
    )
    document = job_set()
    read = models.JobsetV1alpha2JobSet.from_dict(document)
    own = {**document["spec"], "replicatedJobs": None}
    assert {**read.to_dict()["spec"], "replicatedJobs": None} == own
    for replicated, known in zip(
        document["spec"]["replicatedJobs"], read.spec.replicated_jobs, strict=True
    ):
        known = {**known.to_dict(), "template": None}
        assert known == {**replicated, "template": None}


def test_a_tf_jobs_fields_are_those_of_its_schema():
    models = pytest.importorskip(
        "kubeflow.training.models", reason="kubeflow-training is not installed"
    )
    spec = tf_job()["spec"]
    replicas = spec["tfReplicaSpecs"]
    assert (tf_job()["apiVersion"], tf_job()["kind"]) == ("kubeflow.org/v1", "TFJob")
    for fields, model in [
        (tf_job(), models.KubeflowOrgV1TFJob),
        (spec, models.KubeflowOrgV1TFJobSpec),
        (spec["runPolicy"], models.KubeflowOrgV1RunPolicy),
        (replicas["Worker"], models.KubeflowOrgV1ReplicaSpec),
    ]:
        assert set(fields) <= set(model.attribute_map.values())
    assert set(replicas) == {"Worker"}
    assert type(replicas["Worker"]["replicas"]) is int
    assert replicas["Worker"]["restartPolicy"] in ("OnFailure", "Always")
    assert spec["runPolicy"]["cleanPodPolicy"] in ("All", "Running", "None")
    (container,) = replicas["Worker"]["template"]["spec"]["containers"]
    assert container["name"] == "tensorflow"
    assert container["ports"] == [{"name": "tfjob-port", "containerPort": 2222}]


# ------------------------------------------------------------ as the workers read them


def tasks(job, prefix):
    """Of the pods of a Job, as its manifest names and equips them."""
    (container,) = job["template"]["spec"]["containers"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    return [
        cluster.find_task(
            {
                **environ,
                "HOSTNAME": f"{prefix}-{index}",
                "JOB_COMPLETION_INDEX": str(index),
            }
        )
        for index in range(job["completions"])
    ]


def test_the_pods_of_the_indexed_job_find_one_another():
    service, policy, _, job = documents("kubernetes")
    found = tasks(job["spec"], job["metadata"]["name"])
    assert [task.index for task in found] == [0, 1, 2]
    assert found[0].cluster == found[1].cluster == found[2].cluster
    assert found[0].size == job["spec"]["completions"]
    domain, port = found[1].address.removeprefix("tem-tf-1.").split(":")
    template = job["spec"]["template"]
    assert domain == service["metadata"]["name"] == template["spec"]["subdomain"]
    assert int(port) == service["spec"]["ports"][0]["port"]
    assert int(port) == policy["spec"]["ingress"][0]["ports"][0]["port"]
    labels = template["metadata"]["labels"]
    assert labels == service["spec"]["selector"]
    assert labels == policy["spec"]["podSelector"]["matchLabels"]


def test_the_pods_of_the_job_set_find_one_another():
    document = job_set()
    (replicated,) = document["spec"]["replicatedJobs"]
    name = f"{document['metadata']['name']}-{replicated['name']}"
    found = [
        task
        for job in range(replicated["replicas"])
        for task in tasks(replicated["template"]["spec"], f"{name}-{job}")
    ]
    assert [task.index for task in found] == [0, 1, 2, 3]
    assert all(task.cluster == found[0].cluster for task in found)
    assert found[0].size == 4
    subdomain = document["spec"]["network"]["subdomain"]
    assert found[3].address == f"{name}-1-1.{subdomain}:2222"


def pods():
    """What a pod of each manifest is to be."""
    *_, job = documents("kubernetes")
    return [
        job["spec"]["template"]["spec"],
        job_set()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"],
        tf_job()["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"],
    ]


def test_the_manifests_run_one_image_with_one_claim():
    specs = pods()
    for spec in specs:
        (container,) = spec["containers"]
        assert f"--tag {container['image']} " in (LAUNCH / "Dockerfile").read_text()
        assert spec["volumes"] == specs[0]["volumes"]


@pytest.mark.parametrize("spec", pods(), ids=["kubernetes", "jobset", "tfjob"])
def test_a_new_pod_goes_on_from_the_shared_volume(spec):
    """Its command is one that tem-tf takes, and its state outlives it."""
    (container,) = spec["containers"]
    program, *flags = container["command"]
    setup = configparser.ConfigParser()
    setup.read(LAUNCH.parent / "setup.cfg")
    assert f"\n{program} = " in setup["options.entry_points"]["console_scripts"]
    with flagsaver.flagsaver():
        command_line.parse([program, *flags])
        configuration = command_line.configure()
        assert command_line.FLAGS.resume == "auto"
    (mount,) = container["volumeMounts"]
    (volume,) = spec["volumes"]
    assert mount["name"] == volume["name"]
    assert (
        pathlib.Path(mount["mountPath"]) in pathlib.Path(configuration.logdir).parents
    )
    assert spec["terminationGracePeriodSeconds"] >= 120


def test_the_dockerfile_is_without_lint():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    linted = subprocess.run(
        [hadolint, str(LAUNCH / "Dockerfile")], capture_output=True, text=True
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr
