"""`sluice pull` against a hub of our own: what it fetches, from whom, and what it leaves on disk."""

import hashlib
import json
import pathlib
import subprocess
import time

import pytest

from fake_hub import COMMIT, Hub, git_sha1
from pulling import MODEL, Sluice, files_of_the_storyteller, noise

BIG = "model.safetensors"
OTHER_COMMIT = "f" * 40


def small(hub, name="org/small", **options):
    """A model of one large file and one small one. Its bytes are noise: nothing here loads it."""
    files = {"config.json": b'{"model_type": "none"}', BIG: noise(600_000)}
    hub.add(name, dict(files), **options)
    return files


def refused(done, *words):
    assert done.returncode == 1, (done.stdout, done.stderr)
    for word in words:
        assert word in done.stderr, done.stderr


def cache_folder(sluice, name="org/small"):
    return sluice.models / ("models--" + name.replace("/", "--"))


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.endswith((".incomplete", ".tmp"))]


def assert_whole(folder, files):
    for path, content in files.items():
        assert (folder / path).read_bytes() == content, path


def test_a_fresh_pull_has_the_caches_layout(hub, sluice):
    files = small(hub)
    hub.models["org/small"].files["pytorch_model.bin"] = b"x"
    result = sluice.pull("org/small")
    folder = cache_folder(sluice)
    snapshot = folder / "snapshots" / COMMIT
    assert result["folder"] == str(snapshot) and result["files"] == 2
    assert result["bytes_fetched"] == result["bytes"] == sum(map(len, files.values()))
    assert_whole(snapshot, files)
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", BIG]
    sha256 = hashlib.sha256(files[BIG]).hexdigest()
    assert pathlib.Path((snapshot / BIG).readlink()).as_posix() == f"../../blobs/{sha256}"
    blobs = {sha256, git_sha1(files["config.json"])}
    assert {path.name for path in (folder / "blobs").iterdir()} == blobs
    assert (folder / "refs/main").read_text() == COMMIT
    # Again: nothing is fetched.
    before = len(hub.requests)
    assert sluice.pull("org/small")["bytes_fetched"] == 0
    assert [seen.path for seen in hub.requests[before:]] == ["/api/models/org/small/revision/main"]


def test_huggingface_hubs_places_are_honoured(hub, sluice, tmp_path):
    small(hub)
    sluice.pull("org/small", MODEL_DIR="", HF_HUB_CACHE=str(tmp_path / "cache"))
    assert (tmp_path / "cache/models--org--small/refs/main").exists()
    sluice.pull("org/small", MODEL_DIR="", HF_HOME=str(tmp_path / "hf"))
    assert (tmp_path / "hf/hub/models--org--small/refs/main").exists()
    sluice.pull("org/small", MODEL_DIR="")
    assert (tmp_path / "home/.cache/huggingface/hub/models--org--small/refs/main").exists()


def test_a_local_folder_holds_plain_files(hub, sluice, tmp_path):
    files = small(hub)
    hub.models["org/small"].files["sub/extra.json"] = b"{}"
    folder = tmp_path / "plain"
    sluice.pull("org/small", "--local-dir", folder, "--include", "*.json", "--include", "*.safetensors")
    assert_whole(folder, {**files, "sub/extra.json": b"{}"})
    assert not (folder / BIG).is_symlink() and not leftovers(folder)
    # A damaged file is seen and mended, the others are left.
    (folder / BIG).write_bytes(noise(600_000, seed=2))
    assert sluice.pull("org/small", "--local-dir", folder)["bytes_fetched"] == len(files[BIG])
    assert_whole(folder, files)


def test_patterns_choose_files(hub, sluice):
    small(hub)
    hub.models["org/small"].files["weights.bin"] = b"wanted this time"
    result = sluice.pull("org/small", "--include", "*.bin", "--include", "*.json", "--exclude", "conf*")
    assert [path.name for path in pathlib.Path(result["folder"]).iterdir()] == ["weights.bin"]
    refused(sluice("pull", "org/small", "--include", "*.onnx"), "--include")


def test_a_lost_connection_is_taken_up_where_it_broke(hub, sluice):
    files = small(hub)
    hub.fail("cdn", BIG, cut_after=200_000)
    hub.fail("cdn", BIG, cut_after=150_000)
    result = sluice.pull("org/small")
    assert_whole(pathlib.Path(result["folder"]), files)
    ranges = [seen.range for seen in hub.content_requests(BIG, "cdn")]
    assert ranges == ["", "bytes=200000-", "bytes=350000-"]


def test_a_killed_pull_goes_on(hub, sluice):
    files = small(hub)
    hub.fail("cdn", BIG, delay_each=0.05)
    process = sluice.start("pull", "org/small")
    partial = cache_folder(sluice) / "blobs" / (hashlib.sha256(files[BIG]).hexdigest() + ".incomplete")
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    kept = partial.stat().st_size
    assert kept < len(files[BIG]) and not (cache_folder(sluice) / "refs").exists()
    result = sluice.pull("org/small")
    assert_whole(pathlib.Path(result["folder"]), files)
    assert hub.content_requests(BIG, "cdn")[-1].range == f"bytes={kept}-"
    assert not leftovers(sluice.models)


def test_a_partial_file_that_is_wrong_is_fetched_anew(hub, sluice):
    files = small(hub)
    sha256 = hashlib.sha256(files[BIG]).hexdigest()
    blobs = cache_folder(sluice) / "blobs"
    blobs.mkdir(parents=True)
    for wrong in (noise(300_000, seed=9), noise(600_000, seed=9), noise(700_000, seed=9)):
        (blobs / f"{sha256}.incomplete").write_bytes(wrong)
        result = sluice.pull("org/small")
        assert_whole(pathlib.Path(result["folder"]), files)
        (blobs / sha256).unlink()


@pytest.mark.parametrize("path", [BIG, "config.json"])
def test_content_of_another_hash_is_refused_and_removed(hub, sluice, path):
    files = small(hub)
    wrong = bytes(len(files[path]))
    for host in ("hub", "cdn"):
        if (path == BIG) == (host == "cdn"):
            hub.fail(host, path, times=9, content=wrong)
    refused(sluice("pull", "org/small"), path, "hash", "removed")
    folder = cache_folder(sluice)
    assert not (folder / "snapshots" / COMMIT / path).exists()
    assert not (folder / "refs").exists()
    assert len(files[path]) not in [partial.stat().st_size for partial in leftovers(folder)]
    hub.faults.clear()
    assert_whole(pathlib.Path(sluice.pull("org/small")["folder"]), files)


def test_a_hub_that_contradicts_its_list_is_refused(hub, sluice):
    files = small(hub)
    sibling = {"rfilename": BIG, "size": len(files[BIG]), "lfs": {"sha256": "a" * 64}}
    hub.models["org/small"].listed = [sibling]
    refused(sluice("pull", "org/small"), BIG, "list says", "a" * 64)


def test_too_many_bytes_are_refused(hub, sluice):
    files = small(hub)
    hub.fail("cdn", BIG, content=files[BIG] + b"more", times=2)
    refused(sluice("pull", "org/small"), BIG, "more than")


def test_chunked_bodies_and_servers_without_ranges(hub, sluice):
    files = small(hub)
    hub.fail("cdn", BIG, chunked=True, cut_after=100_000)
    hub.fail("cdn", BIG, no_ranges=True, cut_after=300_000)
    hub.fail("cdn", BIG, no_ranges=True, chunked=True)
    assert_whole(pathlib.Path(sluice.pull("org/small")["folder"]), files)


def test_busy_servers_are_waited_for(hub, sluice):
    files = small(hub)
    hub.fail("hub", "api", status=503)
    hub.fail("hub", BIG, status=429, headers={"Retry-After": "1"})
    hub.fail("cdn", BIG, status=500)
    start = time.monotonic()
    assert_whole(pathlib.Path(sluice.pull("org/small")["folder"]), files)
    assert time.monotonic() - start > 1.9
    hub.fail("cdn", BIG, status=500, times=9)
    done = sluice("pull", "org/small", "--local-dir", sluice.models / "x", "--max-retries", 1)
    refused(done, BIG, "HTTP 500", "trying again")
    hub.fail("hub", "api", status=429, headers={"Retry-After": "86400"})
    refused(sluice("pull", "org/small"), "HTTP 429")


def test_a_stalled_server_is_given_up_in_time(hub, sluice):
    small(hub)
    hub.fail("cdn", BIG, delay_each=30)
    start = time.monotonic()
    done = sluice("pull", "org/small", "--timeout", 0.5, "--max-retries", 0)
    refused(done, "in time")
    assert time.monotonic() - start < 10


def test_an_absent_hub_is_said(hub, sluice):
    done = sluice("pull", "org/small", "--endpoint", "http://127.0.0.1:1", "--max-retries", 0)
    refused(done, "127.0.0.1:1", "refused")
    done = sluice("pull", "org/small", "--endpoint", "nonsense")
    assert done.returncode == 2 and "nonsense" in done.stderr


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, sluice, tmp_path):
    files = small(hub, gated_for="hf_secret")
    refused(sluice("pull", "org/small"), "licence", "HF_TOKEN")
    refused(sluice("pull", "org/small", HF_TOKEN="hf_wrong"), "licence", "HF_TOKEN")
    result = sluice.pull("org/small", HF_TOKEN="hf_secret")
    assert_whole(pathlib.Path(result["folder"]), files)
    sent = {(seen.host, seen.authorization) for seen in hub.requests if seen.status in (200, 206, 302)}
    assert sent == {("hub", "Bearer hf_secret"), ("cdn", "")}
    # From a flag, and from the file that huggingface_hub's login writes.
    sluice.pull("org/small", "--local-dir", tmp_path / "a", "--token", "hf_secret")
    home = tmp_path / "hf_home"
    home.mkdir()
    (home / "token").write_text("hf_secret\n")
    sluice.pull("org/small", "--local-dir", tmp_path / "b", HF_HOME=str(home))


def test_what_the_hub_does_not_have_is_said(hub, sluice):
    small(hub)
    refused(sluice("pull", "org/absent"), "org/absent", "no such model", "HF_TOKEN")
    refused(sluice("pull", "org/absent", HF_TOKEN="x"), "org/absent", hub.endpoint)
    refused(sluice("pull", "org/small", "--revision", "v9"), "v9", "revision")
    done = sluice("pull", "../etc")
    assert done.returncode == 2 and "ORG/NAME" in done.stderr


def test_revisions_stand_beside_each_other(hub, sluice):
    files = small(hub, revisions={"main": COMMIT, "refs/pr/1": OTHER_COMMIT, OTHER_COMMIT: OTHER_COMMIT})
    sluice.pull("org/small", "--revision", "refs/pr/1")
    folder = cache_folder(sluice)
    assert (folder / "refs/refs/pr/1").read_text() == OTHER_COMMIT
    assert not (folder / "refs/main").exists()
    # The other commit has the same content: it is linked, not fetched.
    assert sluice.pull("org/small")["bytes_fetched"] == 0
    assert_whole(folder / "snapshots" / OTHER_COMMIT, files)
    assert_whole(folder / "snapshots" / COMMIT, files)
    sluice.pull("org/small", "--revision", OTHER_COMMIT)
    refused(sluice("pull", "org/small", "--revision", "../../x"), "revision")


@pytest.mark.parametrize(
    "path", ["../../../evil.json", "/etc/evil.json", "a/../../evil.json", "evil\\..\\x.json", "x/./y.json"]
)
def test_a_file_name_never_leads_out_of_the_folder(hub, sluice, path):
    small(hub)
    hub.models["org/small"].listed = [
        {"rfilename": "config.json", "size": 2, "blobId": git_sha1(b"{}")},
        {"rfilename": path, "size": 2, "blobId": git_sha1(b"{}")},
    ]
    refused(sluice("pull", "org/small"), "evil" if "evil" in path else "x/./y", "nothing was fetched")
    assert not list(sluice.models.rglob("*.json"))


def test_a_redirect_loop_ends(hub, sluice):
    small(hub)
    hub.models["tiny/loop"] = hub.models["org/small"]
    hub.redirect_to = f"{hub.endpoint}/org/small/resolve/{COMMIT}/{BIG}?"
    refused(sluice("pull", "org/small"), "redirects")


def test_a_full_disk_is_said_before(hub, sluice):
    small(hub)
    hub.models["org/small"].listed = [
        {"rfilename": BIG, "size": 10**17, "lfs": {"sha256": "a" * 64, "size": 10**17}}
    ]
    refused(sluice("pull", "org/small"), "TB of disk", "free")
    assert not hub.content_requests(BIG)


def test_a_list_without_hashes_is_made_up_for(hub, sluice):
    files = small(hub, blobs=False)
    assert_whole(pathlib.Path(sluice.pull("org/small")["folder"]), files)
    assert {seen.method for seen in hub.requests} == {"GET", "HEAD"}


def test_nonsense_in_place_of_a_list_is_refused(hub, sluice):
    small(hub)
    hub.models["org/small"].listed = [{"no": "name"}]
    refused(sluice("pull", "org/small"), "not a hub's description")
    hub.models["org/small"].listed = [{"rfilename": "a.json", "size": 1, "blobId": "../../x"}]
    refused(sluice("pull", "org/small"), "hex")


def test_pulls_at_once_share_the_work(hub, sluice):
    files = {"config.json": b"{}", **{f"model-{i}.safetensors": noise(120_000, i) for i in range(4)}}
    hub.add("org/many", files)
    for name in files:
        hub.fail("cdn", name, delay_each=0.02)
    processes = [sluice.start("pull", "org/many", "--max-workers", 2) for _ in range(3)]
    for process in processes:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    assert_whole(cache_folder(sluice, "org/many") / "snapshots" / COMMIT, files)
    assert not leftovers(sluice.models)
    for name in list(files)[1:]:
        assert len(hub.content_requests(name, "cdn")) == 1, name


def test_groups(hub, sluice):
    listed = sluice("pull", "--list")
    assert listed.returncode == 0
    groups = {group["group"]: group["models"] for group in json.loads(sluice("pull", "--list", "--json").stdout)}
    assert groups.keys() >= {"single_gpu", "multi_gpu"}
    assert "single_gpu" in listed.stdout and "here already" not in listed.stdout
    for model in groups["single_gpu"]:
        small(hub, model["name"])
    done = sluice("pull", "single_gpu")
    assert done.returncode == 0, done.stderr
    assert sluice("pull", "--list").stdout.count("here already") == len(groups["single_gpu"])
    done = sluice("pull", "--group", "single_gpu", "--json")
    assert [json.loads(line)["bytes_fetched"] for line in done.stdout.splitlines()] == [0] * len(groups["single_gpu"])
    done = sluice("pull", "--group", "nope")
    assert done.returncode == 2 and "--list" in done.stderr


def test_a_pulled_model_runs_by_its_name_without_the_hub(hub, sluice, tmp_path):
    hub.add(MODEL, files_of_the_storyteller())
    missing = sluice("run", MODEL, "-p", "x")
    refused(missing, f"sluice pull {MODEL}")
    result = sluice.pull(MODEL)
    names = {path.name for path in pathlib.Path(result["folder"]).iterdir()}
    assert "pytorch_model.bin" not in names and "original" not in names
    offline = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    flags = ["-p", "Once upon a time", "--max-tokens", 12, "--temperature", 0, "--json"]
    expected = json.loads(sluice("run", *flags).stdout)["text"]
    folder = cache_folder(sluice, MODEL)
    for model in (MODEL, folder, folder / "snapshots" / COMMIT):
        done = sluice("run", model, *flags, **offline)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["text"] == expected
    done = sluice("run", MODEL, "--revision", COMMIT, *flags, **offline)
    assert json.loads(done.stdout)["text"] == expected, done.stderr
    refused(sluice("run", MODEL, "--revision", "v9", *flags), "v9", "sluice pull")
    doctor = json.loads(sluice("doctor", MODEL, "--json", **offline).stdout)
    assert doctor["model"]["name"] == MODEL
    # Under MODEL_DIR a plain folder comes first, by its whole name or its last part.
    plain = tmp_path / "plain" / MODEL
    sluice.pull(MODEL, "--local-dir", plain)
    for where in (tmp_path / "plain", tmp_path / "plain/tiny"):
        done = sluice("run", MODEL, *flags, **offline, MODEL_DIR=str(where))
        assert json.loads(done.stdout)["text"] == expected, done.stderr


def make_certificate(folder):
    """A certificate for localhost that signs itself, made with openssl's tool."""
    paths = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-out", paths[0], "-keyout", paths[1]],
        check=True,
        capture_output=True,
    )
    return paths


def test_https_is_checked(tmp_path):
    certificate, key = make_certificate(tmp_path)
    with Hub(tls=(certificate, key)) as hub:
        files = small(hub)
        sluice = Sluice(hub, tmp_path)
        refused(sluice("pull", "org/small"), "certificate")
        trusted = {"SSL_CERT_FILE": str(certificate)}
        assert_whole(pathlib.Path(sluice.pull("org/small", **trusted)["folder"]), files)
        # The certificate is for localhost, not for the address.
        by_address = hub.endpoint.replace("localhost", "127.0.0.1")
        refused(sluice("pull", "org/small", "--endpoint", by_address, **trusted), "certificate")
        hub.redirect_to = "http://127.0.0.1:1"
        done = sluice("pull", "org/small", "--local-dir", tmp_path / "x", **trusted)
        refused(done, "not encrypted")
