import SwiftUI

/// Draw a digit with a finger; lifting it shows what the model reads.
public struct DigitsView: View {
    @State private var pixels = [Float](repeating: 0, count: 64)
    @State private var said = "Draw a digit"
    private let classifier = try? DigitClassifier()

    public init() {}

    public var body: some View {
        VStack {
            Text(said).font(.title)
            GeometryReader { area in
                Canvas { context, size in
                    let across = size.width / 8
                    let down = size.height / 8
                    for place in pixels.indices {
                        let cell = CGRect(
                            x: CGFloat(place % 8) * across, y: CGFloat(place / 8) * down,
                            width: across, height: down)
                        let shade = 1 - Double(pixels[place]) / 16
                        context.fill(Path(cell), with: .color(Color(white: shade)))
                    }
                }
                .gesture(drawing(in: area.size))
            }
            .aspectRatio(1, contentMode: .fit)
            .border(.gray)
        }
        .padding()
    }

    private func drawing(in size: CGSize) -> some Gesture {
        DragGesture(minimumDistance: 0)
            .onChanged { touch in
                if touch.translation == .zero {
                    pixels = [Float](repeating: 0, count: 64)
                }
                let column = Int(touch.location.x * 8 / size.width)
                let row = Int(touch.location.y * 8 / size.height)
                if (0..<8).contains(column) && (0..<8).contains(row) {
                    pixels[row * 8 + column] = 16
                }
            }
            .onEnded { _ in
                if let digit = try? classifier?.classify(pixels) {
                    said = "That is a \(digit)"
                }
            }
    }
}
