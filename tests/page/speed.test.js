// How fast an answer is being written.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Speed } from "../../gateway/web/speed.js";

test("one arrival tells nothing, several do", () => {
  const speed = new Speed();
  speed.add(1, 1000);
  assert.equal(speed.at(1500), 0);
  speed.add(2, 1500);
  speed.add(2, 2000);
  assert.equal(speed.at(2000), 4);
});

test("a pause counts while it lasts", () => {
  const speed = new Speed();
  speed.add(1, 1000);
  speed.add(1, 2000);
  assert.deepEqual([speed.at(2000), speed.at(6000), speed.at(11_000)], [1, 0.2, 0.1]);
});

test("what is long past does not count", () => {
  const speed = new Speed();
  for (let at_ms = 0; at_ms <= 1000; at_ms += 10) speed.add(1, at_ms);
  for (let at_ms = 2000; at_ms <= 20_000; at_ms += 1000) speed.add(1, at_ms);
  assert.equal(speed.at(20_000), 1);
});

test("what was written before does not count", () => {
  const speed = new Speed();
  speed.begin(true);
  for (let number = 0; number < 300; number++) speed.add(1, 1000 + number);
  speed.add(1, 2000);
  speed.add(1, 3000);
  assert.equal(speed.at(3000), 1);
});
