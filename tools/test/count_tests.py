"""count_tests.py REPORT.xml ...: adds up JUnit reports and prints "N passed, N failed".

A report that is missing or holds no test counts as one failure: a test run that never started must
not pass. Exits 1 when anything failed.
"""

import sys
import xml.etree.ElementTree as ElementTree


def count(path):
    """Returns (passed, failed) of one report; skipped tests are neither."""
    try:
        cases = list(ElementTree.parse(path).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        print(f"{path}: no usable report ({error})", file=sys.stderr)
        return 0, 1
    if not cases:
        print(f"{path}: no tests ran", file=sys.stderr)
        return 0, 1
    failed = sum(
        case.find("failure") is not None
        or case.find("error") is not None
        or case.get("status") in ("fail", "notrun")  # ctest: failed, or its program is missing
        for case in cases
    )
    skipped = sum(
        case.find("skipped") is not None and case.get("status") != "notrun" for case in cases
    )
    return len(cases) - failed - skipped, failed


def main():
    totals = [count(path) for path in sys.argv[1:]]
    passed = sum(total[0] for total in totals)
    failed = sum(total[1] for total in totals)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
