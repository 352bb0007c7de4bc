"""What a process is, by environments recorded from schedulers; refusals."""

import pathlib
import re

import pytest

from tem_tf import cluster
from tem_tf.cluster import Rank, slurm

RECORDED = pathlib.Path(__file__).with_name("recorded")


def recorded(name, **changes):
    """A recorded environment, with variables changed, or left out by None."""
    lines = (RECORDED / f"{name}.env").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    return {k: v for k, v in {**environ, **changes}.items() if v is not None}


# Name; index and addresses, which were worked out by hand.
TASKS = [
    # (1 + 389 * 0) * 16 + 12000, the first step of job 1.
    (
        "slurm-step",
        4,
        ("tem0:12016", "tem0:12017", "tem0:12018", "tem1:12019", "tem2:12020"),
    ),
    # Of restart 1, 389 * 7 slots of 1250 further: (1 + 2723) % 1250 * 16 + 12000.
    (
        "slurm-requeued",
        4,
        ("tem0:15584", "tem0:15585", "tem0:15586", "tem1:15587", "tem2:15588"),
    ),
    # Rank 2 of ranks 0 2 3 | 1 is the second of its node. Restart 1, step 1: 389 * 8.
    ("slurm-cyclic", 1, ("tem0:21808", "tem0:21809", "tem0:21810", "tem1:21811")),
    # The last of an array has the array's own id, 2.
    ("slurm-array", 1, ("tem0:12032", "tem0:12033")),
    # MASTER_PORT, 39701 % 1250 * 16 + 12000; PMIX_NAMESPACE, 545652737, likewise.
    ("torchrun-one-node", 1, ("127.0.0.1:27216", "127.0.0.1:27217")),
    ("open-mpi-one-node", 1, ("127.0.0.1:15792", "127.0.0.1:15793")),
    (
        "kubernetes-job",
        2,
        ("tem-tf-0.tem-tf:2222", "tem-tf-1.tem-tf:2222", "tem-tf-2.tem-tf:2222"),
    ),
    (
        "jobset",
        3,
        tuple(
            f"tem-tf-worker-{job}-{pod}.tem-tf:2222" for job in (0, 1) for pod in (0, 1)
        ),
    ),
    ("tfjob", 1, ("tem-tf-worker-0.team.svc:2222", "tem-tf-worker-1.team.svc:2222")),
]


@pytest.mark.parametrize(("name", "index", "workers"), TASKS)
def test_a_scheduler_names_this_task(name, index, workers):
    task = cluster.find_task(recorded(name))
    assert (task.index, task.cluster) == (index, {"worker": workers})
    assert task.size == len(workers)


@pytest.mark.parametrize("name", ["slurm-batch", "slurm-one-task"])
def test_a_batch_script_and_a_step_of_one_task_are_alone(name):
    assert cluster.find_task(recorded(name)) is None


def test_an_unknown_environment_is_alone():
    assert cluster.find_task({"PATH": "/bin", "RANK": "1", "SLURM_JOB_ID": "3"}) is None


def test_every_recording_is_used():
    names = {path.stem for path in RECORDED.glob("*.env")}
    text = pathlib.Path(__file__).read_text()
    assert all(f'"{name}"' in text for name in names)


def test_tf_config_comes_first_and_empty_means_alone():
    for name in ("slurm-step", "torchrun-two-nodes", "kubernetes-job"):
        config = recorded("tfjob")["TF_CONFIG"]
        assert cluster.find_task(recorded(name, TF_CONFIG=config)).source == "TF_CONFIG"
        assert cluster.find_task(recorded(name, TF_CONFIG="{}")) is None
        assert cluster.find_task(recorded(name, TF_CONFIG=" ")) is not None


def test_the_inner_launcher_comes_before_the_outer():
    """Whose own tasks are not the workers: there is one on each node."""
    outer = recorded("slurm-step")
    one = cluster.find_task({**outer, **recorded("torchrun-one-node")})
    assert one.source == "torchrun's environment"
    two = cluster.find_task({**outer, **recorded("open-mpi-one-node")})
    assert two.source == "Open MPI's environment"
    alone = recorded("torchrun-one-node", WORLD_SIZE="1", RANK="0")
    assert cluster.find_task({**outer, **alone}) is None


# ------------------------------------------------------------------------------ ports


def port_of(name, **changes):
    task = cluster.find_task(recorded(name, **changes))
    return int(next(iter(task.addresses.values())).rpartition(":")[2])


@pytest.mark.parametrize(
    "changes",
    [
        *({"SLURM_JOB_ID": str(2 + i)} for i in range(200)),
        *({"SLURM_RESTART_COUNT": str(1 + i)} for i in range(20)),
        *({"SLURM_STEP_ID": str(1 + i)} for i in range(20)),
    ],
    ids=lambda changes: "-".join(*changes.items()),
)
def test_neighbouring_jobs_steps_and_restarts_have_other_ports(changes):
    """Sixteen apart, for five workers each."""
    here, there = port_of("slurm-step"), port_of("slurm-step", **changes)
    assert abs(here - there) >= 16
    assert 12_000 <= there < 32_000


def test_a_node_of_many_tasks_has_a_port_for_each():
    many = {
        "SLURM_STEP_NUM_TASKS": "1000",
        "SLURM_STEP_TASKS_PER_NODE": "400(x2),200",
        "SLURM_TASKS_PER_NODE": None,
    }
    task = cluster.find_task(recorded("slurm-step", **many))
    assert len(set(task.addresses.values())) == 1000
    assert task.index == 800


@pytest.mark.parametrize(
    ("name", "port"), [("slurm-step", 2222), ("open-mpi-one-node", 65534)]
)
def test_the_first_port_can_be_given(name, port):
    assert port_of(name, TEM_TF_PORT=str(port)) == port


@pytest.mark.parametrize("port", ["0", "65535", "x", "-1", "22.5", "²"])
def test_a_first_port_that_is_none_is_refused(port):
    with pytest.raises(ValueError, match="`TEM_TF_PORT` in the environment must be a"):
        cluster.find_task(recorded("open-mpi-one-node", TEM_TF_PORT=port))


# ------------------------------------------------------------------------ node lists


@pytest.mark.parametrize(
    ("node_list", "nodes"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1 n2"),
        ("n[0-2]", "n0 n1 n2"),
        ("n[08-11]", "n08 n09 n10 n11"),
        ("n[1,3-4,007]", "n1 n3 n4 n007"),
        ("a[1-2],b,c[3]", "a1 a2 b c3"),
        ("r[0-1]n[08-09]", "r0n08 r0n09 r1n08 r1n09"),
        ("r[1-2]-gpu[3,5].cluster.org", " ".join(
            f"r{r}-gpu{n}.cluster.org" for r in (1, 2) for n in (3, 5)
        )),
        ("[1-2]", "1 2"),
    ],
)  # fmt: skip
def test_a_node_list_is_expanded(node_list, nodes):
    assert slurm.expand_nodes(node_list) == nodes.split()


@pytest.mark.parametrize(
    "node_list",
    [
        *("n[", "n]", "n[]", "n[1-]", "n[2-1]", "n[a-b]", "n[1-2]]", "n[[1]]", ","),
        *("n1,", "n 1", "n[1--2]", "n[1,,2]", "n[0-99999999999]", "n[0-9999][0-9999]"),
        "n[0-999],m[0-99000]",
    ],
)
def test_a_node_list_that_is_none_is_refused(node_list):
    with pytest.raises(ValueError, match="`SLURM_STEP_NODELIST` in SLURM's environm"):
        slurm.expand_nodes(node_list)


@pytest.mark.parametrize(
    ("counts", "numbers"),
    [("3", [3]), ("2(x3),1", [2, 2, 2, 1]), ("1,2(x2)", [1, 2, 2])],
)
def test_tasks_per_node_are_expanded(counts, numbers):
    assert slurm.expand_counts(counts) == numbers


@pytest.mark.parametrize("counts", ["", "2(x)", "2(3)", "x", "2,,1", "1(x999999999)"])
def test_tasks_per_node_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="`SLURM_STEP_TASKS_PER_NODE` in SLURM's"):
        slurm.expand_counts(counts)


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "slurm-step",
            {"SLURM_STEP_NODELIST": None},
            "`SLURM_STEP_NODELIST` must be s",
        ),
        (
            "slurm-step",
            {"SLURM_STEP_NUM_TASKS": "6"},
            "must have a number for each nod",
        ),
        (
            "slurm-step",
            {"SLURM_STEP_NODELIST": "a,b"},
            "must have a number for each no",
        ),
        (
            "slurm-step",
            {"SLURM_LOCALID": "1"},
            "`SLURM_LOCALID` in SLURM's environment",
        ),
        ("slurm-step", {"SLURM_NODEID": "3"}, "`SLURM_NODEID` in SLURM's environment"),
        (
            "slurm-step",
            {"SLURM_RESTART_COUNT": "x"},
            "`SLURM_RESTART_COUNT` in SLURM's",
        ),
        (
            "slurm-step",
            {"SLURM_STEP_ID": "x"},
            "`SLURM_STEP_ID` in SLURM's environment",
        ),
        ("slurm-nested", {}, "left over from another job's step"),
        (
            "torchrun-one-node",
            {"RANK": "2"},
            "`RANK` in torchrun's environment must be",
        ),
        (
            "torchrun-one-node",
            {"WORLD_SIZE": "two"},
            "`WORLD_SIZE` in torchrun's envir",
        ),
        (
            "torchrun-one-node",
            {"MASTER_PORT": None},
            "`MASTER_PORT` must be set in tor",
        ),
        (
            "torchrun-two-nodes",
            {"MASTER_ADDR": ""},
            "`MASTER_ADDR` must be set in torc",
        ),
        ("torchrun-two-nodes", {"MASTER_ADDR": "a b"}, 'must be "host:port"'),
        ("open-mpi-two-nodes", {}, "`MASTER_ADDR` must be set.*mpirun -x MASTER_ADDR"),
        ("open-mpi-one-node", {"OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, "in Open MPI's env"),
        (
            "kubernetes-job",
            {"TEM_TF_WORKERS": None},
            "`TEM_TF_WORKERS` must be set.*WO",
        ),
        ("kubernetes-job", {"TEM_TF_SERVICE": None}, "`TEM_TF_SERVICE` must be set in"),
        ("kubernetes-job", {"JOB_COMPLETION_INDEX": "3"}, "`JOB_COMPLETION_INDEX` in"),
        (
            "kubernetes-job",
            {"HOSTNAME": "tem-tf-1"},
            "`HOSTNAME` in .* must end in the",
        ),
        ("kubernetes-job", {"HOSTNAME": "2"}, "`HOSTNAME` in the indexed Job's envir"),
        (
            "jobset",
            {"HOSTNAME": "tem-tf-worker-2-1"},
            "`HOSTNAME` in the indexed Job's",
        ),
        ("jobset", {"TEM_TF_WORKERS": "5"}, "must be a multiple of TEM_TF_JOBS"),
    ],
)
def test_a_wrong_or_missing_variable_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        cluster.find_task(recorded(name, **changes))


def test_a_pod_that_trains_apart_from_others_is_alone():
    assert cluster.find_task(recorded("kubernetes-job", TEM_TF_WORKERS="1")) is None


# ------------------------------------------------------------------------------- ranks


def test_ranks_on_several_nodes_know_where_the_first_is():
    rank = cluster.find_task(recorded("torchrun-two-nodes"))
    # 29511 % 78 * 256 + 12000
    assert rank == Rank(1, 2, "127.0.0.1:18912", 18913, "")
    assert (rank.name, rank.is_chief) == ("worker 1", False)
    first = cluster.find_task(recorded("torchrun-two-nodes", RANK="0"))
    assert first.is_chief
    assert first.first == f"127.0.0.1:{first.port}"
    by_hand = recorded("torchrun-two-nodes", LOCAL_WORLD_SIZE=None)
    assert cluster.find_task(by_hand) == rank


def test_open_mpi_over_several_nodes_takes_the_first_host():
    for host, shown in [("node7", "node7"), ("fd00::7", "[fd00::7]")]:
        rank = cluster.find_task(recorded("open-mpi-two-nodes", MASTER_ADDR=host))
        assert re.fullmatch(re.escape(shown) + r":\d+", rank.first)
        assert (rank.index, rank.size) == (1, 2)


@pytest.mark.parametrize(("index", "size"), [(2, 2), (-1, 2)])
def test_a_rank_out_of_range_is_refused(index, size):
    with pytest.raises(ValueError, match=r"The rank in here must be in \[0, 2\)"):
        Rank(index, size, "a:1", 2, "here")
