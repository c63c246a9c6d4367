// Input methods, with which people type characters that no key has: the keys are theirs until a character is there.

/** Whether a key event belongs to an input method. Safari tells of its last key by an old code alone. */
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}
