// A page opened from the disk may not start a Worker, which the search needs. There the worker's script runs in a
// hidden frame instead, with the same two functions: postMessage to it, onmessage from it.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.later(() => this.onmessage?.({ data: structuredClone(data) }));
      const script = inside.document.createElement("script");
      script.src = new URL(url, location).href;
      script.onload = () => {
        this.ready = true;
        this.waiting.forEach((data) => this.postMessage(data));
      };
      script.onerror = (event) => this.onerror?.(event);
      inside.document.body.append(script);
    }

    postMessage(data) {
      if (!this.ready) this.waiting.push(data);
      else this.later(() => this.frame.contentWindow.onmessage({ data: structuredClone(data) }));
    }

    // As with a real worker, a message arrives later, and as a copy.
    later(deliver) {
      setTimeout(() => this.frame.isConnected && deliver());
    }

    terminate() {
      this.frame.remove();
    }
  };
}
