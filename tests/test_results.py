"""The index of results is complete, and every result is cited by a page."""

from scripts.results_index import INDEX, cited_by, facts, index, results


def test_the_index_is_that_of_the_folder():
    assert INDEX.read_text() == index(), "run: python scripts/results_index.py"


def test_every_result_is_cited_and_says_its_command():
    assert [name for name in results() if not cited_by(name)] == []
    assert [name for name, files in results().items() if not facts(files)["command"]] == []
