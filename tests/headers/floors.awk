# usage: awk -f floors.awk floors.txt HEADER...   (in include/)

function floor_of(path,   prefix, best) {
  best = ""
  for (prefix in floors)
    if (index(path, prefix) == 1 && substr(path, length(prefix) + 1, 1) ~ /^[\/._]?$/ && length(prefix) > length(best))
      best = prefix
  if (best == "") {
    print path ": stands on no floor of floors.txt"
    bad = 1
    return -1
  }
  return floors[best]
}

FILENAME ~ /floors\.txt$/ {
  if ($0 !~ /^(#|$)/) floors[$2] = $1 + 0
  next
}

FNR == 1 { here = floor_of(FILENAME) }

/^[ \t]*#[ \t]*include[ \t]*["<]lockstep/ {
  match($0, /lockstep[^">]*/)
  target = substr($0, RSTART, RLENGTH)
  there = floor_of(target)
  if (there > here) {
    print FILENAME ":" FNR ": floor " here " includes " target " of floor " there
    bad = 1
  }
}

/^[ \t]*#[ \t]*include[ \t]*"/ && !/"lockstep[\/.]/ {
  print FILENAME ":" FNR ": include by full path, \"lockstep/...\": " $0
  bad = 1
}

END { exit bad }
