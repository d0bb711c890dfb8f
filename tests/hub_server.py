"""A stand-in of the Hub on loopback: real HTTP, commits and large files in memory, the requests that our clients make.

No Hub runs offline, so the far side of the wire is played here; the clients that talk to it are the real ones. What it
doesn't know it answers with 501 and notes in `Hub.unknown`, so that a new client's new request fails loudly.
`python tests/hub_server.py` prints its address and serves until its input ends; the tokens are in `TOKENS`.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKENS = {"ann-writes": ("ann", "write"), "ann-reads": ("ann", "read"), "bob-writes": ("bob", "write")}
TEXT = (".md", ".json", ".jinja", ".txt", ".csv", ".py", ".gitattributes")
SMALL = 200_000  # bytes; a longer file goes to the large-file store, whatever its name
LICENCES = ("apache-2.0", "mit", "llama3.1", "cc-by-4.0")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Commit:
    oid: str
    title: str
    files: dict  # path -> bytes, or the SHA-256 of a large file


@dataclass
class Repo:
    private: bool
    commits: list[Commit] = field(default_factory=list)
    pulls: list[Commit] = field(default_factory=list)


@dataclass
class Hub:
    """Everything that it holds, and how it misbehaves when a test asks for it."""

    repos: dict = field(default_factory=dict)  # ("models", "ann/elm") -> Repo
    large: dict = field(default_factory=dict)  # SHA-256 -> bytes
    asked: list = field(default_factory=list)  # "GET /api/…"
    unknown: list = field(default_factory=list)
    url: str = ""
    files_url: str = ""  # another origin, as the real one's
    lost_uploads: int = 0  # so many PUTs break off in the middle
    lost_replies: int = 0  # so many commits are made, but their answer is lost

    def add_commit(self, repo: Repo, title: str, changes: dict, pull: bool = False) -> Commit:
        before = repo.commits[-1].files if repo.commits else {}
        oid = hashlib.sha1(f"{title} {len(repo.commits)} {sorted(changes)}".encode()).hexdigest()
        (repo.pulls if pull else repo.commits).append(Commit(oid, title, before | changes))
        return (repo.pulls if pull else repo.commits)[-1]

    def add_model(self, name: str, folder: Path):
        """Put a public model there, as somebody published it long ago."""
        repo, files = self.repos.setdefault(("models", name), Repo(private=False)), {}
        for path in folder.iterdir():
            content = path.read_bytes()
            files[path.name] = content if len(content) <= SMALL else hashlib.sha256(content).hexdigest()
            self.large |= {files[path.name]: content} if len(content) > SMALL else {}
        self.add_commit(repo, "their model", files)

    def read(self, kind: str, name: str, path: str) -> bytes:
        """Return a file of the newest commit."""
        found = self.repos[kind, name].commits[-1].files[path]
        return found if isinstance(found, bytes) else self.large[found]


class RefusalError(Exception):
    """An answer that ends a request: status, message, the Hub's error code."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def reply(self, status: int, body=b"", **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        headers = {"Content-Type": kind, "Content-Length": len(content)} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def read_body(self) -> bytes:
        """Return the request's body, which comes over the wire once."""
        if self.body is None and self.headers.get("Transfer-Encoding") != "chunked":
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        elif self.body is None:
            self.body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return self.body

    def break_off(self):
        self.close_connection = True
        self.connection.shutdown(2)

    def find_user(self, write: bool = False) -> str | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in TOKENS:
            raise RefusalError(401, "Invalid credentials in Authorization header", "")
        user, role = TOKENS.get(given, (None, "read"))
        if write and not user:
            raise RefusalError(401, "Invalid username or password.", "")
        if write and role != "write":
            raise RefusalError(403, "You need a token with the role write", "")
        return user

    def find_repo(self, kind: str, name: str, write: bool = False) -> Repo:
        """Return a repository that the token may see; the real Hub, too, answers 401 for one that a guest may not."""
        user, repo = self.find_user(write), self.hub.repos.get((kind, name))
        if repo is None and name.split("/")[0] not in {owner for owner, _ in TOKENS.values()}:
            raise RefusalError(503, "the stand-in knows nobody else's models", "")
        if repo is None or (repo.private and user != name.split("/")[0]):
            raise RefusalError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != name.split("/")[0] and "create_pr" not in self.query:
            raise RefusalError(403, f"you may not write to {name}", "")
        return repo

    def find_commit(self, repo: Repo, revision: str) -> Commit:
        pull = re.fullmatch(r"refs/pr/(\d+)", revision)
        known = {commit.oid: commit for commit in repo.commits + repo.pulls} | {"main": repo.commits[-1]}
        found = repo.pulls[int(pull[1]) - 1] if pull else known.get(revision)
        if found is None:
            raise RefusalError(404, f"no revision {revision}", "RevisionNotFound")
        return found

    def serve(self):
        parts = urlsplit(self.path)
        path, self.query, self.body = unquote(parts.path), parse_qs(parts.query), None
        self.hub.asked.append(f"{self.command} {path}")
        method = "GET" if self.command == "HEAD" and "/resolve/" in path else self.command
        try:
            for (known, pattern), answer in ROUTES.items():
                match = re.fullmatch(pattern, path) if known == method else None
                if match:
                    return answer(self, **match.groupdict())
            self.hub.unknown.append(f"{self.command} {self.path}")
            self.read_body()
            self.reply(501, {"error": f"the stand-in doesn't know {self.command} {self.path}"})
        except RefusalError as refusal:
            status, said, code = refusal.args
            self.read_body()
            self.reply(status, {"error": said}, X_Error_Message=said, **({"X_Error_Code": code} if code else {}))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815


def whoami(asked: Handler):
    user = asked.find_user()
    if user is None:
        raise RefusalError(401, "Invalid username or password.", "")
    role = TOKENS[asked.headers["Authorization"].removeprefix("Bearer ")][1]
    asked.reply(200, {"name": user, "type": "user", "orgs": [], "auth": {"accessToken": {"role": role}}})


def create(asked: Handler):
    user, body = asked.find_user(write=True), json.loads(asked.read_body())
    kind, owner = f"{body.get('type') or 'model'}s", body.get("organization") or user
    name = f"{owner}/{body['name']}"
    if owner != user:
        raise RefusalError(403, f"You don't have the rights to create a {kind[:-1]} under the namespace {owner}", "")
    url = f"{asked.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
    if (kind, name) in asked.hub.repos:
        asked.reply(409, {"error": f"You already created this {kind[:-1]} repo", "url": url})
        return
    repo = asked.hub.repos[kind, name] = Repo(body.get("visibility") == "private")
    asked.hub.add_commit(repo, "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
    asked.reply(200, {"url": url, "name": name, "id": name})


def validate_yaml(asked: Handler):
    body = json.loads(asked.read_body())
    found = re.match(r"---\n(.*?)\n---\n", body["content"], re.DOTALL)
    data = yaml.safe_load(found[1]) if found else {}
    wrong = [] if data.get("license") in LICENCES else [f'"license" {data.get("license")!r} is not known']
    if body["repoType"] == "model" and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(data.get("base_model"))):
        wrong.append('"base_model" with value … is not valid. Use a model id from https://hf.co/models.')
    asked.reply(400 if wrong else 200, {"errors": [{"message": one} for one in wrong], "warnings": []})


def describe(asked: Handler, kind: str, name: str, revision: str = "main"):
    repo = asked.find_repo(kind, name)
    commit = asked.find_commit(repo, revision)
    asked.reply(
        200,
        {
            **{
                "id": name,
                "sha": commit.oid,
                "private": repo.private,
                "lastModified": DATE,
                "tags": [],
                "downloads": 0,
            },
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        },
    )


def describe_file(asked: Handler, path: str, found) -> dict:
    """Return what a listing says; git's hash is that of the content, or of the note that stands for a large file."""
    size = len(found if isinstance(found, bytes) else asked.hub.large[found])
    large = {} if isinstance(found, bytes) else {"lfs": {"oid": found, "size": size, "pointerSize": 134}}
    held = found if isinstance(found, bytes) else found.encode()
    git = hashlib.sha1(f"blob {len(held)}\0".encode() + held).hexdigest()
    return {"type": "file", "path": path, "size": size, "oid": git} | large


def check_access(asked: Handler, kind: str, name: str):
    asked.find_repo(kind, name)
    asked.reply(200, {})


def list_tree(asked: Handler, kind: str, name: str, revision: str, under: str | None = None):
    files = asked.find_commit(asked.find_repo(kind, name), revision).files
    inside = {path: found for path, found in files.items() if not under or path.startswith(f"{under}/")}
    folders = {path.split("/")[0] for path in inside if "/" in path}
    asked.reply(
        200,
        [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)]
        + [describe_file(asked, path, found) for path, found in sorted(inside.items())],
    )


def list_paths(asked: Handler, kind: str, name: str, revision: str):
    files, body = asked.find_commit(asked.find_repo(kind, name), revision).files, asked.read_body().decode()
    wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
    asked.reply(200, [describe_file(asked, path, files[path]) for path in wanted if path in files])


def list_commits(asked: Handler, kind: str, name: str, revision: str):
    commits = reversed(asked.find_repo(kind, name).commits)
    about = {"authors": [{"user": name.split("/")[0]}], "date": DATE, "message": ""}
    asked.reply(200, [about | {"id": commit.oid, "title": commit.title} for commit in commits])


def list_refs(asked: Handler, kind: str, name: str):
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": asked.find_repo(kind, name).commits[-1].oid}
    asked.reply(200, {"branches": [main], "tags": [], "converts": []})


def preupload(asked: Handler, kind: str, name: str, revision: str):
    files = asked.find_commit(asked.find_repo(kind, name, write=True), revision).files
    answers = []
    for one in json.loads(asked.read_body())["files"]:
        mode = "regular" if one["path"].endswith(TEXT) and one["size"] <= SMALL else "lfs"
        known = files.get(one["path"])
        known = describe_file(asked, one["path"], known)["oid"] if isinstance(known, bytes) else known
        answers.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
    asked.reply(200, {"files": answers})


def plan_large(asked: Handler, name: str, kind: str | None = None):
    asked.find_user(write=True)
    asked.find_repo(kind or "models", name)
    answers = []
    for one in json.loads(asked.read_body())["objects"]:
        verify = {"href": f"{asked.hub.url}/{name}/verify"}
        steps = {"upload": {"href": f"{asked.hub.files_url}/put/{one['oid']}"}, "verify": verify}
        answers.append(one | ({} if one["oid"] in asked.hub.large else {"actions": steps}))
    asked.reply(200, {"transfer": "basic", "objects": answers})


def put_large(asked: Handler, oid: str):
    if asked.hub.lost_uploads > 0:
        asked.hub.lost_uploads -= 1
        asked.rfile.read(100)
        asked.break_off()
        return
    content = asked.read_body()
    if hashlib.sha256(content).hexdigest() != oid:
        raise RefusalError(400, "the content is not what its SHA-256 says", "")
    asked.hub.large[oid] = content
    asked.reply(200, ETag=f'"{oid}"')


def verify(asked: Handler, name: str):
    body = json.loads(asked.read_body())
    whole = len(asked.hub.large.get(body["oid"], b"")) == body["size"]
    asked.reply(200 if whole else 404, {})


def commit(asked: Handler, kind: str, name: str, revision: str):
    repo, changes, title = asked.find_repo(kind, name, write=True), {}, ""
    for line in asked.read_body().splitlines():
        key, value = (entry := json.loads(line))["key"], entry["value"]
        if key == "header":
            title = value["summary"]
        elif key == "file":
            changes[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile" and value["oid"] in asked.hub.large:
            changes[value["path"]] = value["oid"]
        else:
            raise RefusalError(400, f"a commit of {entry}"[:200], "")
    pull = "create_pr" in asked.query
    made = asked.hub.add_commit(repo, title, changes, pull)
    if asked.hub.lost_replies > 0:
        asked.hub.lost_replies -= 1
        asked.break_off()
        return
    place = f"{asked.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
    answer = {"success": True, "commitUrl": f"{place}/commit/{made.oid}", "commitOid": made.oid}
    asked.reply(200, answer | ({"pullRequestUrl": f"{place}/discussions/{len(repo.pulls)}"} if pull else {}))


def resolve(asked: Handler, name: str, revision: str, path: str, kind: str | None = None):
    made = asked.find_commit(asked.find_repo(kind or "models", name), revision)
    if path not in made.files:
        raise RefusalError(404, f"no file {path}", "EntryNotFound")
    found = describe_file(asked, path, made.files[path])
    if "lfs" not in found:
        asked.reply(200, made.files[path], X_Repo_Commit=made.oid, ETag=f'"{found["oid"]}"')
        return
    oid, place = found["lfs"]["oid"], f"{asked.hub.files_url}/get/{found['lfs']['oid']}"
    link = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": found["size"]}
    asked.reply(302, Location=place, X_Repo_Commit=made.oid, ETag=f'"{found["oid"]}"', **link)


def get_large(asked: Handler, oid: str):
    content, span = asked.hub.large[oid], re.match(r"bytes=(\d+)-(\d*)", asked.headers.get("Range", ""))
    if span:
        first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        part = content[first : last + 1]
        asked.reply(206, part, Content_Range=f"bytes {first}-{last}/{len(content)}", ETag=f'"{oid}"')
        return
    asked.reply(200, content, ETag=f'"{oid}"')


REPO = "/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
ROUTES = {
    ("GET", "/api/whoami-v2"): whoami,
    ("GET", "/api/agent-harnesses"): lambda asked: asked.reply(200, {"standardEnvVars": [], "harnesses": {}}),
    ("POST", "/api/repos/create"): create,
    ("POST", "/api/validate-yaml"): validate_yaml,
    ("GET", REPO): describe,
    ("GET", f"{REPO}/revision/(?P<revision>.+)"): describe,
    ("GET", f"{REPO}/tree/(?P<revision>[^/]+)"): list_tree,
    ("GET", f"{REPO}/tree/(?P<revision>[^/]+)/(?P<under>.+)"): list_tree,
    ("POST", f"{REPO}/paths-info/(?P<revision>[^/]+)"): list_paths,
    ("GET", f"{REPO}/commits/(?P<revision>[^/]+)"): list_commits,
    ("GET", f"{REPO}/refs"): list_refs,
    ("GET", f"{REPO}/auth-check"): check_access,
    ("POST", f"{REPO}/preupload/(?P<revision>[^/]+)"): preupload,
    ("POST", f"{REPO}/commit/(?P<revision>[^/]+)"): commit,
    ("POST", r"/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch"): plan_large,
    ("POST", "/(?P<name>[^/]+/[^/]+)/verify"): verify,
    ("PUT", "/put/(?P<oid>[0-9a-f]{64})"): put_large,
    ("GET", "/get/(?P<oid>[0-9a-f]{64})"): get_large,
    (
        "GET",
        "/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>refs/pr/[0-9]+|[^/]+)/(?P<path>.+)",
    ): resolve,
}


@contextmanager
def run_hub():
    """Serve until the block ends; two ports, because the real Hub keeps large files at another origin."""
    hub, threads, servers = Hub(), [], []
    for _ in range(2):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
        server.daemon_threads = True
        threads.append(threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True))
        threads[-1].start()
        servers.append(server)
    hub.url, hub.files_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


if __name__ == "__main__":
    with run_hub() as running:
        print(running.url, flush=True)
        sys.stdin.read()  # ends with whoever started it
