"""The configuration file of sqlite_table(5): `name = value`, and the templates in it (src/global/db_common.c)."""

from __future__ import annotations

from postroom.status import ConfigurationFault
from postroom.tables.keys import BLANK, fold_key
from postroom.tables.lines import logical_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Text, or the letter or digit behind a per cent sign.
    Piece = tuple[bool, str]
    Template = tuple[Piece, ...]

_LETTERS = "suUdDS123456789"


class Settings:
    """A query whose quoted texts are parameters, made anew for each key."""

    __slots__ = ("_domains", "_format", "_templates", "dbpath", "limit", "query")

    def __init__(
        self,
        dbpath: str,
        query: str,
        templates: tuple[Template, ...],
        form: Template,
        domains: frozenset[str],
        limit: int,
    ) -> None:
        self.dbpath = dbpath
        self.query = query
        self._templates = templates
        self._format = form
        self._domains = domains
        self.limit = limit

    def parameters(self, key: str) -> tuple[str, ...] | None:
        """What to ask with; None where the query is suppressed for this key, which then is not found."""
        local, _, domain = key.rpartition("@")
        if self._domains and not (local and domain in self._domains):
            return None
        filled = [_filled(template, key, key) for template in self._templates]
        return None if None in filled else tuple(text for text in filled if text is not None)

    def result(self, text: str, key: str) -> str | None:
        """One result by result_format; None where it is suppressed."""
        return _filled(self._format, text, key)


def read(content: str, path: str) -> Settings:
    """Raises ConfigurationFault."""
    given: dict[str, str] = {}
    for number, line in logical_lines(content):
        name, equals, value = line.partition("=")
        if not equals or not name.strip(BLANK):
            raise ConfigurationFault(f"{path}, line {number}: expected name = value")
        given[name.strip(BLANK)] = value.strip(BLANK)
    if not given.get("dbpath"):
        raise ConfigurationFault(f"{path}: dbpath is missing; expected the path of a database")
    limit = given.get("expansion_limit", "0")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10):
        raise ConfigurationFault(f"{path}: expansion_limit: expected a number, found {limit[:60]}")
    query, templates = _parameters(given.get("query") or _old_query(given, path), path)
    form = _template(given.get("result_format") or "%s", f"{path}: result_format")
    return Settings(given["dbpath"], query, templates, form, _domains(given.get("domain", ""), path), int(limit))


def _old_query(given: dict[str, str], path: str) -> str:
    """OBSOLETE QUERY INTERFACE."""
    for name in ("table", "select_field", "where_field"):
        if not given.get(name):
            raise ConfigurationFault(f"{path}: query is missing; expected query = SELECT ... WHERE ... = '%s'")
    query = f"SELECT {given['select_field']} FROM {given['table']} WHERE {given['where_field']} = '%s'"  # noqa: S608 - the administrator's words; a key is never put in
    return f"{query} {given.get('additional_conditions', '')}"


def _domains(text: str, path: str) -> frozenset[str]:
    domains = text.replace(",", " ").split()
    for domain in domains:
        if set(domain) & set("!/:"):
            raise ConfigurationFault(f"{path}: domain: expected names of domains, found {domain[:60]}")
    return frozenset(fold_key(domain) for domain in domains)


def _parameters(query: str, path: str) -> tuple[str, tuple[Template, ...]]:
    """The query with a ? for each quoted text that has a key in it, and what to put there."""
    written, templates, position = "", [], 0
    while position < len(query):
        character = query[position]
        if character == "'":
            end = _closing(query, position, path)
            template = _template(query[position + 1 : end - 1].replace("''", "'"), f"{path}: query")
            keyed = any(is_key for is_key, _ in template)
            templates += [template] if keyed else []
            plain = "".join(text for _, text in template).replace("'", "''")
            written += "?" if keyed else f"'{plain}'"
            position = end
            continue
        if character == "%":
            if query[position : position + 2] != "%%":
                raise ConfigurationFault(f"{path}: query: write '{query[position : position + 2]}', in single quotes")
            position += 1
        written += character
        position += 1
    return written, tuple(templates)


def _closing(query: str, start: int, path: str) -> int:
    """Behind the quote that ends the text which begins at `start`; two of them are one in the text."""
    position = start + 1
    while (end := query.find("'", position)) >= 0:
        if query[end + 1 : end + 2] != "'":
            return end + 1
        position = end + 2
    raise ConfigurationFault(f"{path}: query: has a quote that is not closed")


def _template(text: str, place: str) -> Template:
    """%s the key or the result, %u its local part, %d its domain, %1 the key's last label; %S %U %D are the key's."""
    pieces: list[Piece] = []
    before, *rest = text.split("%")
    pieces.append((False, before))
    skip = False
    for index, part in enumerate(rest):
        if skip:
            pieces.append((False, part))
            skip = False
        elif not part and index + 1 < len(rest):
            pieces.append((False, "%"))
            skip = True
        elif part and part[0] in _LETTERS:
            pieces += [(True, part[0]), (False, part[1:])]
        else:
            raise ConfigurationFault(f"{place}: has %{part[:1]}, which is not known; %% is a per cent sign")
    return tuple(piece for piece in pieces if piece != (False, ""))


def _filled(template: Template, value: str, key: str) -> str | None:
    done = ""
    for is_key, text in template:
        part = _part(text, value, key) if is_key else text
        if part is None:
            return None
        done += part
    return done


def _part(letter: str, value: str, key: str) -> str | None:
    """None where the query, or the result, is suppressed: there is no domain, or it has too few labels."""
    if letter.isdigit():
        at, domain = key.rpartition("@")[1:]
        labels = [label for label in domain.split(".") if label] if at else []
        return labels[-int(letter)] if len(labels) >= int(letter) else None
    source = value if letter.islower() else key
    if letter in "sS":
        return source
    local, at, domain = source.rpartition("@")
    if letter in "uU":
        return source if not at else local or None
    return domain if at and domain else None
