// Two recordings at one position: waveforms, A/B at equal loudness, seams, F0 of both.
import { $, $$, call, clock, texts, toast } from "./app.js";

const BINS = 1200;
let playing = null;

export class Player {
  constructor(place, seams, name) {
    place.append($("#player-parts").content.cloneNode(true));
    this.place = place;
    this.seams = seams;
    this.which = "result";
    this.sounds = {};
    this.peaks = {};
    for (const which of ["source", "result"]) {
      const audio = new Audio();
      audio.preload = "none";
      audio.src = place.dataset[which];
      audio.onended = () => this.stop();
      audio.onerror = () => { if (which === this.which) this.stop(); };
      this.sounds[which] = audio;
    }
    this.waves = $(".waves", place);
    this.waves.setAttribute("aria-label", `${this.waves.getAttribute("aria-label")}: ${name}`);
    this.canvas = $("canvas", place);
    $(".play", place).onclick = () => this.toggle();
    for (const button of $$(".ab button", place)) button.onclick = () => this.choose(button.dataset.which);
    $(".seams", place).hidden = !seams.length;
    $(".seams input", place).onchange = () => this.draw();
    $(".pitch input", place).onchange = (event) => this.showPitch(event.target);
    this.waves.onpointerdown = (event) => {
      const box = this.waves.getBoundingClientRect();
      this.seek(this.length * (event.clientX - box.left) / box.width);
    };
    this.waves.onkeydown = (event) => this.key(event);
    new ResizeObserver(() => this.draw()).observe(this.waves);
    new IntersectionObserver((entries, observer) => {
      if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); this.load(); }
    }).observe(place);
  }

  get audio() { return this.sounds[this.which]; }
  get length() { return this.peaks.result?.audio_s || this.audio.duration || 0; }
  get at() { return this.position ?? this.audio.currentTime ?? 0; }

  async load() {
    for (const which of ["result", "source"]) {
      try {
        this.peaks[which] = await call(`${which === "source" ? this.place.dataset.source : this.place.dataset.result.replace(/result$/, "")}${which === "source" ? "/" : ""}peaks?bins=${BINS}`);
      } catch { /* a source that can't be read has no picture */ }
      this.waves.setAttribute("aria-valuemax", Math.round(this.length));
      this.draw();
    }
    this.level();
  }

  // The louder one is turned down to the quieter one's level.
  level() {
    const { source, result } = this.peaks;
    if (!source || !result) return;
    const difference = source.rms_db - result.rms_db;
    this.sounds.source.volume = Math.min(1, 10 ** (-difference / 20));
    this.sounds.result.volume = Math.min(1, 10 ** (difference / 20));
  }

  async showPitch(box) {
    box.parentElement.setAttribute("aria-busy", "true");
    try {
      if (box.checked) this.pitch ??= await call(this.place.dataset.result.replace(/result$/, "f0"));
    } catch (error) {
      box.checked = false;
      toast(error.message);
    }
    box.parentElement.removeAttribute("aria-busy");
    this.waves.classList.toggle("with-pitch", box.checked);
    this.draw();
  }

  toggle() { if (this.place.classList.contains("playing")) this.stop(); else this.play(); }

  async play() {
    if (playing && playing !== this) playing.stop();
    playing = this;
    const at = this.at;
    for (const audio of Object.values(this.sounds)) audio.preload = "auto";
    this.place.classList.add("playing");
    $(".play", this.place).setAttribute("aria-label", texts.pause);
    this.audio.currentTime = at;
    this.position = undefined;
    try { await this.audio.play(); } catch { return this.stop(); }
    const tick = () => { this.draw(); if (this.place.classList.contains("playing")) requestAnimationFrame(tick); };
    tick();
  }

  stop() {
    this.position = this.audio.ended ? 0 : this.at;
    this.audio.pause();
    this.place.classList.remove("playing");
    $(".play", this.place).setAttribute("aria-label", texts.play);
    this.draw();
  }

  choose(which) {
    if (which === this.which) return;
    const going = this.place.classList.contains("playing"), at = this.at;
    this.audio.pause();
    this.which = which;
    this.position = at;
    for (const button of $$(".ab button", this.place)) button.setAttribute("aria-pressed", String(button.dataset.which === which));
    if (going) this.play(); else this.draw();
  }

  seek(seconds) {
    const at = Math.min(Math.max(0, seconds), this.length);
    if (this.place.classList.contains("playing")) this.audio.currentTime = at;
    else this.position = at;
    this.draw();
  }

  key(event) {
    const actions = { " ": () => this.toggle(), ArrowLeft: () => this.seek(this.at - 5), ArrowRight: () => this.seek(this.at + 5),
      Home: () => this.seek(0), End: () => this.seek(this.length), x: () => this.choose(this.which === "source" ? "result" : "source") };
    const action = actions[event.key] || actions[event.key.toLowerCase()];
    if (action) { event.preventDefault(); action(); }
  }

  draw() {
    const { canvas } = this, scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    pen.scale(scale, scale);
    const pitch = this.pitch && $(".pitch input", this.place).checked, half = (pitch ? height * 0.5 : height) / 2;
    const size = half * 0.46 * this.magnified();
    this.wave(pen, this.peaks.source, half * 0.5, size * this.sounds.source.volume, width, style.getPropertyValue(this.which === "source" ? "--copper" : "--soft"));
    this.wave(pen, this.peaks.result, half * 1.5, size * this.sounds.result.volume, width, style.getPropertyValue(this.which === "result" ? "--accent" : "--soft"));
    const at = this.length ? width * this.at / this.length : 0;
    if ($(".seams input", this.place).checked) {
      pen.fillStyle = style.getPropertyValue("--copper");
      for (const seam of this.seams) pen.fillRect(width * seam / this.length, half, 1.5, half);
    }
    if (pitch) {
      const place = { top: height * 0.54, height: height * 0.44, width };
      const colour = (name) => style.getPropertyValue(name);
      this.curves(pen, place, { source: colour("--copper"), result: colour("--accent"), soft: colour("--soft"), line: colour("--line"), paper: colour("--paper") });
    }
    pen.fillStyle = style.getPropertyValue("--ink");
    pen.fillRect(at, 0, 1.5, height);
    $(".time", this.place).textContent = `${clock(this.at)} / ${clock(this.length)}`;
    this.waves.setAttribute("aria-valuenow", Math.round(this.at));
    this.waves.setAttribute("aria-valuetext", clock(this.at));
  }

  // Both at the loudness at which they are heard, as large as there is room.
  magnified() {
    const highest = ["source", "result"].map((which) => {
      const { low, high } = this.peaks[which] || { low: [0], high: [0] };
      return this.sounds[which].volume * Math.max(...high, ...low.map((value) => -value));
    });
    return 1 / Math.max(...highest, 0.02);
  }

  curves(pen, { top, height, width }, colours) {
    const voiced = [...this.pitch.source.hz, ...this.pitch.result.hz].filter((hz) => hz > 0);
    if (!voiced.length) return;
    const low = Math.log2(Math.min(...voiced)) - 0.1, high = Math.log2(Math.max(...voiced)) + 0.1;
    const y = (hz) => top + height * (high - Math.log2(hz)) / (high - low);
    const octaves = [50, 100, 200, 400, 800].filter((hz) => Math.log2(hz) > low && Math.log2(hz) < high);
    pen.fillStyle = colours.line;
    for (const hz of octaves) pen.fillRect(0, y(hz), width, 1);
    pen.lineWidth = 2;
    pen.lineCap = pen.lineJoin = "round";
    for (const which of ["source", "result"]) {
      const { step_s: step, hz } = this.pitch[which];
      pen.strokeStyle = colours[which];
      pen.beginPath();
      hz.forEach((value, number) => {
        const x = width * (number + 0.5) * step / this.length;
        if (value && hz[number - 1]) pen.lineTo(x, y(value));
        else if (value) { pen.moveTo(x, y(value)); pen.lineTo(x + 0.1, y(value)); }
      });
      pen.stroke();
    }
    pen.strokeStyle = colours.paper;
    pen.fillStyle = colours.soft;
    pen.font = "11px system-ui, sans-serif";
    for (const hz of octaves) {
      pen.strokeText(`${hz} Hz`, 6, y(hz) - 4);
      pen.fillText(`${hz} Hz`, 6, y(hz) - 4);
    }
  }

  wave(pen, peaks, middle, height, width, colour) {
    if (!peaks) return;
    pen.fillStyle = colour;
    const step = peaks.low.length / width;
    for (let x = 0; x < width; x += 1) {
      const from = Math.floor(x * step), to = Math.max(from + 1, Math.floor((x + 1) * step));
      let low = 0, high = 0;
      for (let bin = from; bin < to; bin += 1) { low = Math.min(low, peaks.low[bin]); high = Math.max(high, peaks.high[bin]); }
      pen.fillRect(x, middle - high * height, 1, Math.max(1, (high - low) * height));
    }
  }
}
