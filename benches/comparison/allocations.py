"""Allocations of the daemon for each request, as DHAT counts them. A block counts once more when it is reallocated.

What the ledger allocates once for all records of 20 ms is left out, because it depends on how fast the machine is: of the
places in the code that allocate, those count that do so a whole number of times for each request."""

import json

import valgrind
from rig import Rig

#: Deep enough to tell places apart that allocate through the same functions, and not so deep that one place becomes several
#: by who has polled it.
CALLERS = 8
#: So near to a whole number.
NEAR = 0.01


def a_request(rig: Rig, name: str) -> tuple[int, int]:
    """Blocks and bytes that each further request allocates."""
    few, many = (places(valgrind.run(rig, name, requests, "dhat", f"--num-callers={CALLERS}")) for requests in valgrind.RUNS)
    blocks = size = 0
    for place, (of_many, bytes_of_many) in many.items():
        of_few, bytes_of_few = few.get(place, (0, 0))
        each = valgrind.of_each(of_few, of_many)
        if round(each) and abs(each - round(each)) <= NEAR:
            blocks += round(each)
            size += valgrind.of_each(bytes_of_few, bytes_of_many)
    return blocks, round(size)


def places(profile: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Blocks and bytes in all, by the functions that have led to their allocation."""
    told = json.loads(profile)
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for point in told["pps"]:
        place = tuple(told["ftbl"][frame] for frame in point["fs"])
        blocks, size = found.get(place, (0, 0))
        found[place] = blocks + point["tbk"], size + point["tb"]
    return found
