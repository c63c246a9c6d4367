// New nodes in the place of old ones: what is the same stays as it is, with its focus and what is selected in it.

/**
 * Make the children of `place` that follow `after` (null: all) like these nodes, which may be taken. Those beyond as many
 * stay. The last of them that is in place then, `after` where there are none.
 */
export function graft(place, nodes, after = null) {
  let last = after;
  for (const node of nodes) {
    const old = last ? last.nextSibling : place.firstChild;
    if (old) last = joined(old, node);
    else place.append((last = node));
  }
  return last;
}

/** Remove the children of `place` that follow `after` (null: all). */
export function prune(place, after) {
  while (place.lastChild !== after) place.lastChild.remove();
}

/** What is in place of `old` once that is like `fresh`. */
function joined(old, fresh) {
  if (old.isEqualNode(fresh)) return old;
  if (old.nodeType === Node.TEXT_NODE && fresh.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.length));
    else old.data = fresh.data;
    return old;
  }
  if (!isAlike(old, fresh)) {
    old.replaceWith(fresh);
    return fresh;
  }
  prune(old, graft(old, Array.from(fresh.childNodes)));
  return old;
}

/** Whether they differ at most in their children. Of a figure its script knows more than can be seen. */
function isAlike(old, fresh) {
  return old.nodeName !== "FIGURE" && old.nodeType === Node.ELEMENT_NODE && old.cloneNode(false).isEqualNode(fresh.cloneNode(false));
}
