"""The instructor's page says what the notebooks say: names, minutes, exercises; and its timetables fit their day."""

import re

import pytest
from style import NOTEBOOKS, ROOT, Cell, find_part, read_cells

PAGE = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")


def list_exercises(path) -> list[Cell]:
    return [cell for cell in find_part(path, "Try it").cells if cell.source.startswith("### ")]


def read_rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its head."""
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    assert len(rows) > 3, heading
    return rows[2:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_stands_there_with_its_name_its_minutes_and_its_exercises(path):
    title = read_cells(path)[0]
    time = [line for line in title.source.splitlines() if line.startswith("|")][2].split("|")[1].strip()
    minutes = [int(re.search(r"<summary>Answer \((\d+) min,", cell.source)[1]) for cell in list_exercises(path)]
    expected = [f"[{title.first_line[2:]}]({path.name})", time, f"{len(minutes)}, {sum(minutes)} min"]
    rows = {row[0].partition(".")[0]: row for row in read_rows("The lessons at a glance")}
    assert rows[f"[{int(path.stem[:2])}"][:3] == expected


def test_the_table_names_no_lesson_that_there_is_not():
    rows = read_rows("The lessons at a glance")
    assert [re.search(r"\((\S+)\)", row[0])[1] for row in rows] == [path.name for path in NOTEBOOKS]
    for number, row in ((int(re.match(r"\[(\d+)", row[0])[1]), row) for row in rows):
        assert all(int(before) < number for before in re.findall(r"\d+", row[3])), row


def test_an_exercise_of_a_timetable_is_the_one_with_that_number():
    named = re.findall(
        r"(\d+)\.(\d+) \*(.+?)\*", "\n".join(row[-1] for row in read_rows("Two hours") + read_rows("Two days"))
    )
    assert len(named) >= 15
    for lesson, exercise, words in named:
        path = next(path for path in NOTEBOOKS if int(path.stem[:2]) == int(lesson))
        assert list_exercises(path)[int(exercise) - 1].first_line == f"### {exercise}. {words}"


def test_the_timetables_fit_two_hours_and_two_days_of_six():
    assert sum(int(row[0]) for row in read_rows("Two hours")) == 120
    for day in "12":
        assert 300 <= sum(int(row[1]) for row in read_rows("Two days") if row[0] == day) <= 360


def test_contributing_or_the_readme_leads_there():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")]
    assert any("notebooks/TEACHING.md" in text for text in texts)
