"""Texts that a shell, a template or a launcher could take for something else. Each that is run leaves `canary` behind."""

from __future__ import annotations

TEXTS = (
    "$(touch canary)", "`touch canary`", "; touch canary", "& touch canary &", "| touch canary", "&& touch canary",
    "|| touch canary", "'; touch canary; '", '"; touch canary; "', "'$(touch canary)'", '"$(touch canary)"',
    "a b $(touch canary)", "${IFS}$(touch${IFS}canary)", "$((touch canary))", "<(touch canary)", "> canary",
    "{touch,canary}", "!touch canary", "~root/$(touch canary)", "* $(touch canary)", "-oProxyCommand=touch canary",
    "--eval=touch canary", "-n", "%h $(touch canary)", "\\'; touch canary #", "#$(touch canary)",
    "é$(touch canary)ß", "$(SOME_TOKEN) $$(touch canary)", "${env:HOME", "@PYTHON@ $(touch canary)",
)  # fmt: skip
CONTROL = ("a\ntouch canary", "a\rtouch canary", "a\0touch canary", "a\x1b[2Jtouch canary", "a\x85b", "a\u2028b")
