"use strict";
// One clock for all videos that are on screen. While they play, each is held to their common time by
// its rate, and put there if it is far off; while they stand, each shows the middle of the frame.

class Player {
  constructor(fps, frames) {
    this.fps = fps;
    this.frames = frames;
    this.videos = new Set();
    this.playing = false;
    this.frame = 0;
    this.listeners = [];
  }

  /** The middle of a frame, so that rounding shows no neighbour. */
  time(frame) {
    return (frame + 0.5) / this.fps;
  }

  add(video) {
    this.videos.add(video);
    for (const event of ["loadeddata", "seeked"]) video.addEventListener(event, () => this.aim(video));
    video.wanted = this.time(this.frame);
    if (this.playing) this.restart();
  }

  remove(video) {
    this.videos.delete(video);
    video.pause();
  }

  /** Put a video where it is wanted, one seek after the other: seeks that are cut short may hang. */
  aim(video) {
    if (!video.paused || video.seeking || video.readyState < 2 || this.there(video)) return;
    video.currentTime = video.wanted;
  }

  there(video) {
    return Math.abs(video.currentTime - video.wanted) < 1e-3;
  }

  ready() {
    return [...this.videos].filter((video) => video.readyState >= 2 && !video.error);
  }

  show(frame) {
    this.pause();
    this.put(Math.max(0, Math.min(this.frames - 1, frame)));
  }

  put(frame) {
    this.frame = frame;
    for (const video of this.videos) {
      video.wanted = this.time(frame);
      this.aim(video);
    }
    this.tell();
  }

  /** Resolves when every video that can be shown has come to where it was put. */
  async settled() {
    const waiting = (video) => !video.error && (video.seeking || video.readyState < 2 || !this.there(video));
    while ([...this.videos].some(waiting)) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  toggle() {
    if (this.playing) this.show(this.frame);
    else this.restart();
  }

  pause() {
    this.playing = false;
    this.round = null;
    for (const video of this.videos) video.pause();
    this.tell();
  }

  /** Everything to the same frame, and then on from there. */
  async restart() {
    const round = (this.round = {});
    this.playing = true;
    for (const video of this.videos) video.pause();
    this.put(this.frame >= this.frames - 1 ? 0 : this.frame);
    await this.settled();
    if (this.round !== round) return;
    for (const video of this.ready()) {
      video.playbackRate = 1;
      video.play().catch(() => {});
    }
    const tick = () => {
      if (this.round !== round) return;
      this.hold();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  /** Bring the videos together; at the end of the first, all begin again. */
  hold() {
    const videos = this.ready();
    if (!videos.length) return;
    const times = videos.map((video) => video.currentTime).sort((a, b) => a - b);
    const common = times[Math.floor(times.length / 2)];
    if (videos.some((video) => video.ended) || common >= this.time(this.frames - 1)) {
      this.frame = this.frames - 1;
      this.tell();
      this.restart();
      return;
    }
    for (const video of videos) {
      const behind = common - video.currentTime;
      if (Math.abs(behind) * this.fps > 2 && !video.seeking) video.currentTime = common;
      else video.playbackRate = Math.max(0.5, Math.min(2, 1 + 8 * behind));
    }
    this.frame = Math.min(this.frames - 1, Math.floor(common * this.fps));
    this.tell();
  }

  tell() {
    for (const listener of this.listeners) listener(this);
  }
}
