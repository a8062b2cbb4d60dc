"use strict";

/* Pictures around the current frame, and no others: memory does not grow with a clip's length. */
class FrameCache {
  /* `budget` is in bytes of decoded pixels; `changed()` is called when a picture that is wanted has come, or cannot be had. */
  constructor(budget, changed) {
    this.budget = budget;
    this.changed = changed;
    this.images = new Map(); // by address: {image, ready, failed}
  }

  /* How many frames of so many pixels, for so many sides, may be kept. */
  frames(pixels, sides) {
    return Math.max(4, Math.floor(this.budget / (4 * pixels * sides)));
  }

  /* Keep these addresses, load those that are new in this order, and let go of all others. */
  want(addresses) {
    const wanted = new Set(addresses);
    for (const [address, entry] of this.images) {
      if (!wanted.has(address)) {
        this.images.delete(address);
        if (!entry.ready) entry.image.src = ""; // ends the load; one that has come may be what is shown still
      }
    }
    for (const address of wanted) if (!this.images.has(address)) this.load(address);
  }

  load(address) {
    const entry = { image: new Image(), ready: false, failed: false };
    this.images.set(address, entry);
    entry.image.src = address;
    const come = (state) => { entry[state] = true; if (this.images.get(address) === entry) this.changed(); };
    entry.image.decode().then(() => come("ready"), () => come("failed")); // decoded beside, so that drawing waits for nothing
  }

  /* The picture, or null where it has not come yet. */
  get(address) {
    const entry = this.images.get(address);
    return entry && entry.ready ? entry.image : null;
  }

  failed(address) {
    const entry = this.images.get(address);
    return Boolean(entry && entry.failed);
  }
}
