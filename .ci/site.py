"""Hooks of mkdocs.yml: notebooks become pages with their stored outputs, the tables of nbs/index.ipynb the navigation."""
import html
import json
import posixpath
import re
import subprocess
from base64 import b64decode
from pathlib import Path

import markdown
from markdown.extensions.toc import slugify
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SITE = "https://github.com/videossr/videossr"


def tracked() -> list[str]:
    "What is in git, or would be with the next commit."
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


NAMES = tracked()


def cells_of(name: str) -> list[dict]:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]


def on_config(config):
    "Navigation in the order of the index; headings that begin with `Chapters` make one part."
    parts, chapters = [], []
    for text in ("".join(cell["source"]) for cell in cells_of("nbs/index.ipynb") if cell["cell_type"] == "markdown"):
        if rows := re.findall(r"^\| \[([^]]+)\]\(([^)]+)\.ipynb\) \|", text, re.MULTILINE):
            title, _, rest = re.match(r"## (.+)", text).group(1).partition(": ")
            (chapters if rest else parts).append({rest.capitalize() or title: [{name: f"nbs/{link}.md"} for name, link in rows]})
    first = [{"Home": "README.md"}, {"Tour": "nbs/index.md"}, {"Results": "RESULTS.md"}, {"Limits": "LIMITS.md"}]
    more = {"Environments": "environments/README.md", "Tests": "tests/README.md", **{name.capitalize(): f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")}}
    config.nav = [*first, *parts[:-1], {"Chapters": chapters}, parts[-1], {"Project": [{name: place} for name, place in more.items()]}]
    return config


def turn_links(text: str, name: str) -> str:
    "Links to notebooks lead to their pages, those to files that are no pages to the repository; mkdocs checks the rest."
    def turn(found):
        place, _, anchor = found.group(1).partition("#")
        anchor = slugify(anchor.replace("-", " "), "-") if anchor and not place.startswith("http") else anchor  # Jupyter keeps capitals and colons
        if not place and anchor:
            return f"](#{anchor})"
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(name), place)) if place and not re.match(r"\w+:", place) else ""
        if goal.endswith(".ipynb") and goal in NAMES:
            return f"]({place.removesuffix('.ipynb')}.md{'#' * bool(anchor)}{anchor})"
        if goal and not goal.endswith((".md", ".png")) and (ROOT / goal).exists():
            page = f"{goal}/README.md"
            return f"]({place.rstrip('/')}/README.md)" if page in NAMES else f"]({SITE}/{'tree' if (ROOT / goal).is_dir() else 'blob'}/main/{goal})"
        return found.group(0)

    return re.sub(r"\]\(([^)\s]+)\)", turn, text)


def shown(data: dict, picture: str) -> tuple[str, bytes | None]:
    "An output as HTML, and the picture that it shows."
    if "image/png" in data:
        return f'<img class="output" alt="Output of the cell above" src="{posixpath.basename(picture)}">', b64decode("".join(data["image/png"]))
    if "text/html" in data:
        return f'<div class="output">{re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)}</div>', None
    if "text/markdown" in data:
        text = re.sub(r"!\[([^]]*)\]\([^)]*\)", r"*(picture: \1)*", "".join(data["text/markdown"]))  # they lie beside the run
        return f'<div class="output">{markdown.markdown(text, extensions=["tables", "fenced_code", "sane_lists"])}</div>', None
    return f'<pre class="output">{html.escape("".join(data["text/plain"]))}</pre>', None


def page_of(name: str) -> tuple[str, dict[str, bytes]]:
    "A notebook as Markdown, and its pictures; nothing is run."
    parts, pictures, module = [], {}, ""
    for number, cell in enumerate(cells_of(name)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(turn_links(re.sub(r"^- skip_exec:.*\n", "", source, flags=re.MULTILINE), name))
            continue
        module = (re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", source, re.MULTILINE) or [module])[0]
        title = f' title="exported to videossr.{module}"' if re.match(r"#\s*\|\s*exporti?\b", source) else ""
        code = re.sub(r"^#\s*\|.*\n?", "", source, flags=re.MULTILINE).strip("\n")
        if code and not re.match(r"#\s*\|\s*hide\b", source):
            parts.append(f"````python{title}\n{code}\n````")
        for place, output in enumerate(cell["outputs"]):
            picture = f"{name.removesuffix('.ipynb')}.{number}-{place}.png"
            text, pixels = shown(output.get("data") or {"text/plain": output["text"]}, picture)
            parts.append(re.sub(r"\n\s*\n", "\n&#8203;\n" if text.startswith("<pre") else "\n", text))
            pictures |= {picture: pixels} if pixels else {}
    return "\n\n".join(parts) + "\n", pictures


def on_files(files, config):
    made = []
    for name in NAMES:
        if name.endswith(".ipynb"):
            text, pictures = page_of(name)
            made.append(File.generated(config, f"{name.removesuffix('.ipynb')}.md", content=text))
            made += [File.generated(config, picture, content=pixels) for picture, pixels in pictures.items()]
        elif name.endswith(".md"):
            made.append(File.generated(config, name, content=turn_links((ROOT / name).read_text(encoding="utf-8"), name)))
        elif name.endswith((".png", ".css")):
            made.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return Files([*made, *(file for file in files if file.src_dir != config.docs_dir)])
