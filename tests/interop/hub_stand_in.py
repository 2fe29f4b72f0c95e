"""A stand-in for the Hugging Face Hub: repositories are folders below one; what is uploaded is written there."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@contextmanager
def hub_of(root: Path) -> Iterator[str]:
    """The address of a hub that serves ``root/ORG/NAME`` as models; ``root/requests.jsonl`` lists new repositories."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            api = parts[:2] == ["api", "models"]
            repo = root.joinpath(*parts[2:4] if api else parts[:2])
            files = sorted(path for path in repo.rglob("*") if path.is_file()) if repo.is_dir() else []
            if not files:
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            names = [path.relative_to(repo).as_posix() for path in files]
            if api and "tree" in parts:
                sizes = zip(names, files, strict=True)
                return self.answer(
                    [{"type": "file", "path": n, "size": p.stat().st_size, "oid": "0"} for n, p in sizes]
                )
            if api:
                return self.answer(
                    {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                )
            name = "/".join(parts[4:])
            if name not in names:
                return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            content = (repo / name).read_bytes()
            return self.answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = self.path.strip("/").split("?")[0].split("/")
            if parts[-1] == "create":
                asked = json.loads(body)
                with (root / "requests.jsonl").open("ab") as file:
                    file.write(body + b"\n")
                name = f"{asked.get('organization', 'me')}/{asked['name']}"
                root.joinpath(*name.split("/")).mkdir(parents=True, exist_ok=True)
                return self.answer({"url": f"http://{self.headers['Host']}/{name}", "id": name})
            if parts[-1] == "validate-yaml":  # of the model card
                return self.answer({"errors": [], "warnings": []})
            if "preupload" in parts:
                paths = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                return self.answer({"files": modes})
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    place = root.joinpath(*parts[2:4], entry["value"]["path"])
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(base64.b64decode(entry["value"]["content"]))
            url = f"http://{self.headers['Host']}/{'/'.join(parts[2:4])}/commit/{COMMIT}"
            return self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
