"""A cursor over tokens, as every parser needs it."""

from __future__ import annotations

from reconcile_standin.lexer import Token, tokenize
from reconcile_standin.problem import SqlError


class Tokens:
    """A cursor over tokens, with the helpers every parser needs."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = tokenize(sql)
        self.at = 0
        self.params = 0

    @property
    def token(self) -> Token:
        """The next token."""
        return self.tokens[self.at]

    def peek(self, ahead: int = 1) -> Token:
        """A later token."""
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def next(self) -> Token:
        """Take a token."""
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def is_word(self, *words: str) -> bool:
        """Whether these words come next."""
        for i, word in enumerate(words):
            token = self.peek(i)
            if token.kind != "word" or token.text != word:
                return False
        return True

    def accept(self, *words: str) -> bool:
        """Take these words if they come next."""
        if not self.is_word(*words):
            return False
        self.at += len(words)
        return True

    def accept_op(self, op: str) -> bool:
        """Take this operator if it comes next."""
        if self.token.kind == "op" and self.token.text == op:
            self.at += 1
            return True
        return False

    def is_op(self, op: str) -> bool:
        """Whether this operator comes next."""
        return self.token.kind == "op" and self.token.text == op

    def expect(self, *words: str) -> None:
        """Take these words or fail."""
        for word in words:
            if not self.accept(word):
                self.fail(word.upper())

    def expect_op(self, op: str, what: str | None = None) -> None:
        """Take this operator or fail."""
        if not self.accept_op(op):
            self.fail(what or {")": "right parenthesis", "(": "left parenthesis"}.get(op, op))

    def fail(self, expected: str) -> None:
        """Raise what Materialize's parser would say."""
        raise SqlError.syntax(f"Expected {expected}, found {self.token.describe()}", self.token.start)

    def name(self, what: str = "identifier") -> str:
        """Take one identifier."""
        token = self.token
        if token.kind not in ("word", "ident"):
            self.fail(what)
        self.at += 1
        return token.text

    def names(self) -> list[str]:
        """Take `a, b, c`."""
        found = [self.name()]
        while self.accept_op(","):
            found.append(self.name())
        return found

    def qualified(self, what: str = "identifier") -> tuple[str, ...]:
        """Take `a.b.c`."""
        parts = [self.name(what)]
        while self.accept_op("."):
            parts.append(self.name(what))
        return tuple(parts)

    def integer(self) -> int:
        """Take an integer literal."""
        token = self.next()
        if token.kind != "number" or not token.text.isdigit():
            self.at -= 1
            self.fail("literal integer")
        return int(token.text)

    def string(self) -> str:
        """Take a string literal."""
        if self.token.kind != "string":
            self.fail("literal string")
        return self.next().text
