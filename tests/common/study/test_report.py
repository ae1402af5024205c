from mocodet.common.study.aggregate import aggregate
from mocodet.common.study.report import format_table


def result(task, ap50, ap, ap75):
    return {f"{task}/AP50": ap50, f"{task}/AP": ap, f"{task}/AP75": ap75}


BOXES = aggregate(
    {
        "random": [result("bbox", 60.0, 33.0, 34.0), result("bbox", 62.0, 35.0, 34.0)],
        "moco": [result("bbox", 61.4, 34.5, 40.0), result("bbox", 61.4, 34.5, 20.0)],
    },
    "random",
)


def test_format_table():
    assert format_table(BOXES).splitlines() == [
        "init    trials    AP50 box           AP box              AP75 box",
        "------  --------  -----------------  ------------------  ------------------",
        "random  2         61.0 ± 1.4         34.0 ± 1.4          34.0 ± 0.0",
        "moco    2         61.4 ± 0.0 (+0.4)  34.5 ± 0.0 (+0.5*)  30.0 ± 14.1 (-4.0)",
        "",
        "mean ± sample standard deviation; in brackets the gap to random, at least +0.5 marked (*)",
    ]


def test_format_table__markdown():
    assert format_table(BOXES, markdown=True).splitlines() == [
        "| init   | trials   | AP50 box          | AP box                | AP75 box           |",
        "|--------|----------|-------------------|-----------------------|--------------------|",
        "| random | 2        | 61.0 ± 1.4        | 34.0 ± 1.4            | 34.0 ± 0.0         |",
        "| moco   | 2        | 61.4 ± 0.0 (+0.4) | 34.5 ± 0.0 (**+0.5**) | 30.0 ± 14.1 (-4.0) |",
        "",
        "mean ± sample standard deviation; in brackets the gap to random, at least +0.5 marked (bold)",
    ]


def test_format_table__masks_and_single_trials():
    trial = {**result("segm", 5.0, 4.0, 3.0), **result("bbox", 6.0, 5.0, 4.0)}
    header, _, row, _, legend = format_table(aggregate({"random": [trial]}, "random")).splitlines()
    assert " ".join(header.split()) == "init trials AP50 box AP box AP75 box AP50 mask AP mask AP75 mask"
    assert row.split() == ["random", "1", "6.0", "5.0", "4.0", "5.0", "4.0", "3.0"]
    assert "no spread" in legend


def test_format_table__what_is_printed_decides_the_mark():
    def row(ap):
        reference, other = [result("bbox", 74.4, 10.0, 10.0)], [result("bbox", ap, 10.0, 10.0)]
        return format_table(aggregate({"random": reference, "moco": other}, "random")).splitlines()[3]

    assert "(+0.5*)" in row(74.9)  # 0.4999... in binary
    assert "(+0.5*)" in row(74.86)
    assert "(+0.4)" in row(74.84)
    assert "(+0.0)" in row(74.38)


def test_format_table__segmentation():
    header, *_ = format_table(aggregate({"random": [{"sem_seg/mIoU": 40.0}]}, "random")).splitlines()
    assert header.split() == ["init", "trials", "mIoU"]
